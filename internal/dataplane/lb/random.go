package lb

// random is RANDOM: uniform, whatever the weights, as Envoy's.
type random struct{ eps []*Endpoint }

func (r random) Choose(in *PickInfo) *Endpoint { return r.eps[below(in.random(), len(r.eps))] }
