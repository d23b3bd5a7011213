package lb_test

import (
	"testing"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/lb/lbtest"
)

func chooser(a lb.Algorithm) func([]*lb.Endpoint) lb.Chooser {
	return func(eps []*lb.Endpoint) lb.Chooser { return lb.NewChooser(a, eps, lb.Params{ActiveRequestBias: 1}) }
}

func TestRoundRobin(t *testing.T)   { lbtest.Suite(t, true, chooser(lb.RoundRobin)) }
func TestLeastRequest(t *testing.T) { lbtest.Suite(t, true, chooser(lb.LeastRequest)) }
func TestRandom(t *testing.T)       { lbtest.Suite(t, false, chooser(lb.Random)) }

// Round robin is exact: every full round takes each endpoint as often as its weight says.
func TestRoundRobinIsExact(t *testing.T) {
	for _, weights := range [][]uint32{{1, 1}, {1, 1, 1}, {1, 3}, {2, 3, 5}} {
		eps, round := lbtest.Endpoints(weights...), 0
		for _, w := range weights {
			round += int(w)
		}
		c := lb.NewChooser(lb.RoundRobin, eps, lb.Params{})
		count := map[*lb.Endpoint]int{}
		for range 30 * round {
			count[c.Choose(&lb.PickInfo{})]++
		}
		for i, e := range eps {
			if diff := count[e] - 30*int(weights[i]); diff < -1 || diff > 1 {
				t.Errorf("weights %v: endpoint %d taken %d times in 30 rounds", weights, i, count[e])
			}
		}
	}
}

// Of two choices the less busy one is taken, so that with two endpoints the busy one gets a quarter of the picks at most:
// those where both choices fell on it.
func TestLeastRequestAvoidsTheBusy(t *testing.T) {
	eps := lbtest.Endpoints(1, 1)
	eps[0].Stats.RqActive.Set(5)
	c, in, busy := lb.NewChooser(lb.LeastRequest, eps, lb.Params{}), &lb.PickInfo{Rand: lbtest.Rand(1)}, 0
	for range 10000 {
		if c.Choose(in) == eps[0] {
			busy++
		}
	}
	if busy < 2300 || busy > 2700 {
		t.Errorf("the busy endpoint got %d of 10000, want a quarter", busy)
	}
}

// With different weights the share is weight / (active + 1): 3/(2+1) against 1/(0+1) is half and half.
func TestWeightedLeastRequestHeedsActiveRequests(t *testing.T) {
	eps := lbtest.Endpoints(3, 1)
	eps[0].Stats.RqActive.Set(2)
	for _, tc := range []struct {
		bias float64
		want int // of 10000, for the first
	}{{0, 7500}, {1, 5000}, {2, 2500}} {
		c, in, n := lb.NewChooser(lb.LeastRequest, eps, lb.Params{ActiveRequestBias: tc.bias}), &lb.PickInfo{}, 0
		for range 10000 {
			if c.Choose(in) == eps[0] {
				n++
			}
		}
		if n < tc.want-200 || n > tc.want+200 {
			t.Errorf("bias %v: %d of 10000, want %d", tc.bias, n, tc.want)
		}
	}
}
