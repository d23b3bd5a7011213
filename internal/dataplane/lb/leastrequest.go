package lb

// newLeastRequest gives LEAST_REQUEST. With equal weights: of choice_count endpoints chosen at random, the one with the
// fewest active requests. With different weights an endpoint's share is weight / (active + 1)^bias, as in Envoy's schedule.
func newLeastRequest(eps []*Endpoint, p Params) Chooser {
	if !sameWeights(eps) {
		return newByShare(eps, p.ActiveRequestBias, nil)
	}
	return &leastRequest{eps, int(min(max(p.ChoiceCount, 2), 64))}
}

type leastRequest struct {
	eps     []*Endpoint
	choices int
}

func (l *leastRequest) Choose(in *PickInfo) *Endpoint {
	best := l.eps[below(in.random(), len(l.eps))]
	for i := 1; i < l.choices; i++ {
		e := l.eps[below(in.random(), len(l.eps))]
		if e.Stats.RqActive.Value() < best.Stats.RqActive.Value() {
			best = e
		}
	}
	return best
}
