package lb_test

import (
	"math"
	"testing"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/lb/lbtest"
)

// Even short runs keep to the weights, as Envoy's schedule does.
func TestWeightedLeastRequestIsEven(t *testing.T) {
	for _, weights := range [][]uint32{{1, 3}, {2, 3, 5}, {1, 1, 1, 97}} {
		eps, sum := lbtest.Endpoints(weights...), 0.0
		for _, w := range weights {
			sum += float64(w)
		}
		c := lb.NewChooser(lb.LeastRequest, eps, lb.Params{ActiveRequestBias: 1})
		count := map[*lb.Endpoint]float64{}
		for range 100 {
			count[c.Choose(&lb.PickInfo{})]++
		}
		for i, e := range eps {
			if want := 100 * float64(weights[i]) / sum; math.Abs(count[e]-want) > 4 {
				t.Errorf("weights %v: endpoint %d got %v of 100, want %.0f", weights, i, count[e], want)
			}
		}
	}
}

// The values are applySlowStartFactor's: weight × max(min_weight, (age/window)^(1/aggression)).
func TestSlowStart(t *testing.T) {
	linear := &lb.SlowStart{Window: 10 * time.Second, Aggression: 1, MinWeight: 0.1}
	for _, tc := range []struct {
		name   string
		slow   *lb.SlowStart
		age    time.Duration
		factor float64
	}{
		{"new", linear, 0, 0.1},
		{"one tenth", linear, time.Second, 0.1},
		{"half", linear, 5 * time.Second, 0.5},
		{"nearly warm", linear, 9999 * time.Millisecond, 0.9999},
		{"warm", linear, 10 * time.Second, 1},
		{"old", linear, time.Hour, 1},
		{"aggression 2", &lb.SlowStart{Window: 10 * time.Second, Aggression: 2, MinWeight: 0.1}, 2500 * time.Millisecond, 0.5},
		{"aggression 1/2", &lb.SlowStart{Window: 10 * time.Second, Aggression: 0.5, MinWeight: 0.1}, 5 * time.Second, 0.25},
		{"another least", &lb.SlowStart{Window: 10 * time.Second, Aggression: 1, MinWeight: 0.4}, time.Second, 0.4},
		{"no least", &lb.SlowStart{Window: 10 * time.Second, Aggression: 1}, 0, 0.0001},
		{"the clock went back", linear, -time.Minute, 0.1},
	} {
		for _, a := range []lb.Algorithm{lb.RoundRobin, lb.LeastRequest} {
			eps := lbtest.Endpoints(1, 1, 1)
			for _, e := range eps[:2] {
				e.SetAddedAt(now.Add(-time.Hour))
			}
			eps[2].SetAddedAt(now.Add(-tc.age))
			c := lb.NewChooser(a, eps, lb.Params{SlowStart: tc.slow, ActiveRequestBias: 1})
			in, n := &lb.PickInfo{Now: now, Rand: lbtest.Rand(4)}, 0.0
			const picks = 30000
			for range picks {
				if c.Choose(in) == eps[2] {
					n++
				}
			}
			want := picks * tc.factor / (2 + tc.factor)
			if slack := 5*math.Sqrt(want) + 2; math.Abs(n-want) > slack {
				t.Errorf("%s, algorithm %d: %.0f of %d, want %.0f ± %.0f", tc.name, a, n, picks, want, slack)
			}
		}
	}
}

// While it starts slowly, active requests count too with LEAST_REQUEST; and endpoints that are equally young share evenly.
func TestSlowStartOfAll(t *testing.T) {
	eps := lbtest.Endpoints(1, 1)
	for _, e := range eps {
		e.SetAddedAt(now)
	}
	eps[0].Stats.RqActive.Set(2)
	for _, tc := range []struct {
		a    lb.Algorithm
		want int
	}{{lb.RoundRobin, 5000}, {lb.LeastRequest, 2500}} {
		c := lb.NewChooser(tc.a, eps, lb.Params{SlowStart: &lb.SlowStart{Window: time.Minute, Aggression: 1, MinWeight: 0.1}, ActiveRequestBias: 1})
		in, n := &lb.PickInfo{Now: now.Add(time.Second)}, 0
		for range 10000 {
			if c.Choose(in) == eps[0] {
				n++
			}
		}
		if n < tc.want-50 || n > tc.want+50 {
			t.Errorf("algorithm %d: %d of 10000, want %d", tc.a, n, tc.want)
		}
		if a := testing.AllocsPerRun(100, func() { c.Choose(in) }); a != 0 {
			t.Errorf("Choose allocates %v times", a)
		}
	}
}
