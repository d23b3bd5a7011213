package lb

import (
	"math/rand/v2"
	"sync/atomic"
)

// Algorithm is one of Envoy's lb_policy values.
type Algorithm uint8

// The algorithms. LEAST_REQUEST is Istio's default.
const (
	RoundRobin Algorithm = iota
	LeastRequest
	Random
	RingHash
	Maglev
)

// hashed tells whether the algorithm gives an endpoint for a hash.
func (a Algorithm) hashed() bool { return a == RingHash || a == Maglev }

// Params are the settings of the algorithms.
type Params struct {
	// ChoiceCount is least_request_lb_config.choice_count; 0: 2.
	ChoiceCount uint32
	// ActiveRequestBias is least_request_lb_config.active_request_bias, used where weights differ; as given, 1 being the
	// default of the proto.
	ActiveRequestBias float64
	// SlowStart is slow_start_config of ROUND_ROBIN and LEAST_REQUEST; nil: none.
	SlowStart *SlowStart
	// MinRingSize and MaxRingSize are ring_hash_lb_config's bounds, 1 to 8388608; 0: 1024 and 8388608.
	MinRingSize, MaxRingSize uint64
	// TableSize is maglev_lb_config.table_size, a prime number; 0: 65537.
	TableSize uint64
	// HashHostnames is consistent_hashing_lb_config.use_hostname_for_hashing: endpoints are placed by name, not by address.
	HashHostnames bool
}

// Chooser picks from one fixed list of endpoints. It is safe for concurrent use, and neither locks nor allocates.
type Chooser interface {
	// Choose gives one of the list.
	Choose(in *PickInfo) *Endpoint
}

// NewChooser makes an algorithm over a list that must not be empty, and that it keeps.
func NewChooser(a Algorithm, eps []*Endpoint, p Params) Chooser {
	if len(eps) == 1 {
		return only{eps[0]}
	}
	switch a {
	case LeastRequest:
		return startSlowly(newLeastRequest(eps, p), eps, p, p.ActiveRequestBias)
	case Random:
		return random{eps}
	case RingHash, Maglev:
		return newHashed(a, flatShares(eps), p)
	}
	return startSlowly(newRoundRobin(eps), eps, p, 0)
}

type only struct{ e *Endpoint }

func (o only) Choose(*PickInfo) *Endpoint { return o.e }

func sameWeights(eps []*Endpoint) bool {
	for _, e := range eps[1:] {
		if e.Weight != eps[0].Weight {
			return false
		}
	}
	return true
}

// below gives a value in [0, n), n ≥ 1, from 64 random bits.
func below(r uint64, n int) int { return int((r >> 32) * uint64(n) >> 32) }

// stride is weighted round robin without a lock: turns are counted by one atomic, each round of n turns passes every
// entry once, and entry i is taken in those rounds in which its accumulated weight crosses a multiple of the largest
// weight. In max/gcd rounds each entry is so taken exactly in proportion, evenly spread. The idea is that of gRPC's static
// stride scheduler (gRFC A58).
type stride struct {
	weights []uint64
	max     uint64
	turn    atomic.Uint64
}

// newStride needs at least one weight above 0.
func newStride(weights []uint64) *stride {
	s := &stride{weights: weights}
	for _, w := range weights {
		s.max = max(s.max, w)
	}
	// Kept below 2^16 so that round × weight can't overflow before 2^48 rounds.
	for i := range weights {
		if s.max > 1<<16 && weights[i] > 0 {
			weights[i] = max(1, weights[i]<<16/s.max)
		}
	}
	s.max = min(s.max, 1<<16)
	s.turn.Store(uint64(rand.Uint32N(1<<20)) * uint64(len(weights)))
	return s
}

func (s *stride) next() int {
	n := uint64(len(s.weights))
	for {
		t := s.turn.Add(1)
		i, round := t%n, t/n
		if w := s.weights[i]; round*w%s.max+w >= s.max {
			return int(i)
		}
	}
}
