package lb

// random is RANDOM: uniform, whatever the weights, as Envoy's.
type random struct{ eps []*Endpoint }

func (r random) Choose(rnd func() uint64) *Endpoint { return r.eps[below(rnd(), len(r.eps))] }
