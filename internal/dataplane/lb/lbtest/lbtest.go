// Package lbtest is the one suite that every balancing algorithm passes, and what its tests are made of.
package lbtest

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
)

// Endpoints makes one endpoint for each weight, at 10.0.0.1:80 and up.
func Endpoints(weights ...uint32) []*lb.Endpoint {
	out := make([]*lb.Endpoint, len(weights))
	for i, w := range weights {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}), 80)
		out[i] = &lb.Endpoint{Weight: w, Host: &lb.Host{Address: addr, Name: addr.String()}}
	}
	return out
}

// Rand gives a reproducible source.
func Rand(seed uint64) func() uint64 { return rand.New(rand.NewPCG(seed, 1)).Uint64 }

// Suite runs what holds for every algorithm. weighted tells whether it heeds weights.
func Suite(t *testing.T, weighted bool, newChooser func([]*lb.Endpoint) lb.Chooser) {
	lists := map[string][]uint32{
		"one": {1}, "two": {1, 1}, "seven": {1, 1, 1, 1, 1, 1, 1},
		"weights 1:3": {1, 3}, "weights 10:20:70": {10, 20, 70}, "one dwarfed": {1, 1, 1000}, "huge": {1 << 30, 1 << 31},
	}
	for name, weights := range lists {
		t.Run(name, func(t *testing.T) {
			eps := Endpoints(weights...)
			distribution(t, eps, newChooser(eps), weighted)
		})
	}
	t.Run("concurrent", func(t *testing.T) { concurrent(t, newChooser(Endpoints(1, 2, 3, 4))) })
	t.Run("no allocation", func(t *testing.T) {
		c, in := newChooser(Endpoints(5, 1, 2)), &lb.PickInfo{Rand: Rand(3)}
		if n := testing.AllocsPerRun(100, func() { c.Choose(in) }); n != 0 {
			t.Errorf("Choose allocates %v times", n)
		}
	})
}

func distribution(t *testing.T, eps []*lb.Endpoint, c lb.Chooser, weighted bool) {
	const picks = 40000
	count, in := map[*lb.Endpoint]int{}, &lb.PickInfo{Rand: Rand(7)}
	for range picks {
		count[c.Choose(in)]++
	}
	var total float64
	for _, e := range eps {
		total += share(e, weighted)
	}
	sum := 0
	for i, e := range eps {
		want := picks * share(e, weighted) / total
		// Five standard deviations of a binomial distribution: what no honest algorithm exceeds.
		if slack := 5*math.Sqrt(want) + 2; math.Abs(float64(count[e])-want) > slack {
			t.Errorf("endpoint %d: %d of %d picks, want %.0f ± %.0f", i, count[e], picks, want, slack)
		}
		sum += count[e]
	}
	if sum != picks {
		t.Errorf("%d of %d picks were of the list", sum, picks)
	}
}

func share(e *lb.Endpoint, weighted bool) float64 {
	if weighted {
		return float64(e.Weight)
	}
	return 1
}

func concurrent(t *testing.T, c lb.Chooser) {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			in := &lb.PickInfo{Rand: Rand(uint64(w))}
			for range 2000 {
				e := c.Choose(in)
				e.Stats.RqActive.Inc()
				e.Stats.RqActive.Dec()
			}
		})
	}
	wg.Wait()
}

// Reporter is an lb.Reporter that keeps what it is told.
type Reporter struct {
	mu       sync.Mutex
	Reports  []lb.Outcome
	Released int
}

// Report implements lb.Reporter.
func (r *Reporter) Report(_ *lb.Endpoint, o lb.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Reports = append(r.Reports, o)
}

// Connected implements lb.Reporter.
func (r *Reporter) Connected(*lb.Endpoint, time.Time, bool) {}

// Release implements lb.Reporter.
func (r *Reporter) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Released++
}
