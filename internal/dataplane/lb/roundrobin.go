package lb

import (
	"math/rand/v2"
	"sync/atomic"
)

// newRoundRobin gives ROUND_ROBIN: each in turn, from a random start, so that a change of the list does not favour its head;
// in proportion to weights where they differ.
func newRoundRobin(eps []*Endpoint) Chooser {
	if !sameWeights(eps) {
		weights := make([]uint64, len(eps))
		for i, e := range eps {
			weights[i] = uint64(e.Weight)
		}
		return &weightedRoundRobin{eps, newStride(weights)}
	}
	r := &roundRobin{eps: eps}
	r.turn.Store(uint64(rand.Uint32()))
	return r
}

type roundRobin struct {
	eps  []*Endpoint
	turn atomic.Uint64
}

func (r *roundRobin) Choose(*PickInfo) *Endpoint {
	return r.eps[r.turn.Add(1)%uint64(len(r.eps))]
}

type weightedRoundRobin struct {
	eps []*Endpoint
	s   *stride
}

func (r *weightedRoundRobin) Choose(*PickInfo) *Endpoint { return r.eps[r.s.next()] }
