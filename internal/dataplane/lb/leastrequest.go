package lb

import (
	"math"
)

// newLeastRequest gives LEAST_REQUEST. With equal weights: of choice_count endpoints chosen at random, the one with the
// fewest active requests. With different weights Envoy keeps a schedule in which an endpoint's share is
// weight / (active + 1)^bias; here an endpoint is drawn with that probability, which is the same share without a lock.
func newLeastRequest(eps []*Endpoint, p Params) Chooser {
	if !sameWeights(eps) {
		return &weightedLeastRequest{eps, p.ActiveRequestBias}
	}
	return &leastRequest{eps, int(min(max(p.ChoiceCount, 2), 64))}
}

type leastRequest struct {
	eps     []*Endpoint
	choices int
}

func (l *leastRequest) Choose(rnd func() uint64) *Endpoint {
	best := l.eps[below(rnd(), len(l.eps))]
	for i := 1; i < l.choices; i++ {
		e := l.eps[below(rnd(), len(l.eps))]
		if e.Stats.RqActive.Value() < best.Stats.RqActive.Value() {
			best = e
		}
	}
	return best
}

type weightedLeastRequest struct {
	eps  []*Endpoint
	bias float64
}

// Choose looks at every endpoint; unequal weights are rare and such lists short.
func (l *weightedLeastRequest) Choose(rnd func() uint64) *Endpoint {
	var total float64
	for _, e := range l.eps {
		total += l.share(e)
	}
	at := float64(rnd()>>11) / (1 << 53) * total
	for _, e := range l.eps {
		if at -= l.share(e); at < 0 {
			return e
		}
	}
	return l.eps[len(l.eps)-1] // rounding, or a count that changed between the two passes
}

func (l *weightedLeastRequest) share(e *Endpoint) float64 {
	active := float64(max(e.Stats.RqActive.Value(), 0) + 1)
	switch l.bias {
	case 0:
		return float64(e.Weight)
	case 1:
		return float64(e.Weight) / active
	}
	return float64(e.Weight) / math.Pow(active, l.bias)
}
