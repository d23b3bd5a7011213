package lb_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/lb/lbtest"
)

func TestMain(m *testing.M) {
	lb.Debug = true
	m.Run()
}

var now = time.Unix(1_800_000_000, 0)

// tiers makes endpoints, so many for each priority.
func tiers(counts ...int) []*lb.Endpoint {
	var weights []uint32
	var prio []uint32
	for p, n := range counts {
		for range n {
			weights, prio = append(weights, 1), append(prio, uint32(p))
		}
	}
	eps := lbtest.Endpoints(weights...)
	for i, e := range eps {
		e.Priority = prio[i]
	}
	return eps
}

func eject(e *lb.Endpoint, ago time.Duration) {
	e.SetEjected(true)
	e.Health.EjectedAt.Store(now.Add(-ago).UnixNano())
}

func pick(t *testing.T, s *lb.HostSet, in lb.PickInfo) lb.Result {
	t.Helper()
	in.Now = now
	if in.Rand == nil {
		in.Rand = lbtest.Rand(rand.Uint64())
	}
	r, err := s.Pick(&in)
	if err != nil {
		t.Fatalf("Pick: %v", err)
	}
	return r
}

func hosts(eps ...*lb.Endpoint) (out []*lb.Host) {
	for _, e := range eps {
		out = append(out, e.Host)
	}
	return out
}

func index(eps []*lb.Endpoint, e *lb.Endpoint) int {
	for i := range eps {
		if eps[i] == e {
			return i
		}
	}
	return -1
}

// Each retry is given the next best: the same priority first, then the next, which carries no load, then the ejected,
// longest ejected first, then nothing.
func TestTriedOrder(t *testing.T) {
	eps := tiers(3, 2, 1)
	eject(eps[1], time.Minute)
	eject(eps[3], time.Hour)
	s := lb.NewHostSet(&lb.Policy{}, eps)
	for range 50 {
		var tried []*lb.Host
		var got []int
		for range eps {
			// The first draw decides the priority: 0 is always in P0 here, whose health is 2 of 3.
			r := pick(t, s, lb.PickInfo{Tried: tried, Rand: func() uint64 { return 0 }})
			tried, got = append(tried, r.Endpoint.Host), append(got, index(eps, r.Endpoint))
			if want := len(tried) > 4; r.LastResort != want {
				t.Fatalf("pick %d: LastResort %v", len(tried), r.LastResort)
			}
		}
		if p0 := got[0] + got[1]; p0 != 0+2 || got[2] != 4 || got[3] != 5 || got[4] != 3 || got[5] != 1 {
			t.Fatalf("order %v, want 0 and 2, 4, 5, 3, 1", got)
		}
		if _, err := s.Pick(&lb.PickInfo{Tried: tried}); !errors.Is(err, lb.ErrAllTried) {
			t.Fatalf("everything tried: %v", err)
		}
	}
}

func TestNothingToPick(t *testing.T) {
	if _, err := lb.NewHostSet(&lb.Policy{}, nil).Pick(&lb.PickInfo{}); !errors.Is(err, lb.ErrNoHosts) {
		t.Errorf("no endpoints: %v", err)
	}
	eps := tiers(1, 1)
	eject(eps[0], 1)
	eject(eps[1], 1)
	if _, err := lb.NewHostSet(&lb.Policy{}, eps).Pick(&lb.PickInfo{}); !errors.Is(err, lb.ErrNoHealthyHost) {
		t.Errorf("all ejected, no panic, first attempt: %v", err)
	}
	if r := pick(t, lb.NewHostSet(&lb.Policy{PanicThreshold: 50}, eps), lb.PickInfo{}); !r.Panic {
		t.Error("all ejected, panic at 50 %: not picked in panic")
	}
	p := &lb.Policy{PanicThreshold: 50, FailOnPanic: true}
	if _, err := lb.NewHostSet(p, eps).Pick(&lb.PickInfo{}); !errors.Is(err, lb.ErrNoHealthyHost) {
		t.Errorf("fail_traffic_on_panic: %v", err)
	}
}

// An endpoint with an unanswered SYN is passed over: within its priority always, across priorities where outlierDetection
// is set, and not at all if nobody else serves.
func TestSuspectIsPassedOver(t *testing.T) {
	for _, tc := range []struct {
		name    string
		counts  []int
		suspect []int
		cross   bool
		want    map[int]bool
	}{
		{"same priority", []int{2, 1}, []int{0}, false, map[int]bool{1: true}},
		{"stays in the priority without outlier detection", []int{1, 1}, []int{0}, false, map[int]bool{0: true}},
		{"crosses with it", []int{1, 1}, []int{0}, true, map[int]bool{1: true}},
		{"nobody else", []int{1, 1}, []int{0, 1}, true, map[int]bool{0: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eps := tiers(tc.counts...)
			for _, i := range tc.suspect {
				eps[i].SetSuspect(true)
			}
			s := lb.NewHostSet(&lb.Policy{CrossPriority: tc.cross}, eps)
			for range 20 {
				if i := index(eps, pick(t, s, lb.PickInfo{}).Endpoint); !tc.want[i] {
					t.Fatalf("picked %d", i)
				}
			}
		})
	}
}

// A set that is older than an ejection still avoids the ejected host: that is what requests in flight on an older version
// of a cluster pick from.
func TestStaleSetHeedsEjection(t *testing.T) {
	eps := tiers(2, 1)
	s := lb.NewHostSet(&lb.Policy{}, eps)
	eject(eps[0], 0)
	eject(eps[1], 0)
	for range 20 {
		if e := pick(t, s, lb.PickInfo{}).Endpoint; e != eps[2] {
			t.Fatalf("picked %v", e)
		}
	}
	eject(eps[2], 0)
	if r := pick(t, s, lb.PickInfo{}); r.LastResort {
		t.Error("a first attempt counts as last resort")
	}
}

// previous_hosts: five more tries, then whatever comes.
func TestCompatEnvoyPicksAgain(t *testing.T) {
	eps := tiers(1, 1)
	s := lb.NewHostSet(&lb.Policy{CompatEnvoy: true}, eps)
	if e := pick(t, s, lb.PickInfo{Tried: hosts(eps[0])}).Endpoint; e != eps[0] {
		t.Errorf("the only endpoint of P0 was not taken again: %v", e)
	}
	eps = tiers(2)
	s = lb.NewHostSet(&lb.Policy{CompatEnvoy: true}, eps)
	for range 50 {
		if e := pick(t, s, lb.PickInfo{Tried: hosts(eps[0])}).Endpoint; e != eps[1] {
			t.Fatal("round robin over two: the tried one was picked")
		}
	}
}

// 70/30 for half a priority, and 35/35/20/10 for locality weights, counted.
func TestShares(t *testing.T) {
	eps := tiers(2, 2)
	eject(eps[0], 0)
	count := spread(t, lb.NewHostSet(&lb.Policy{Algorithm: lb.LeastRequest}, eps), eps)
	for i, want := range []int{0, 7000, 1500, 1500} {
		if d := count[i] - want; d < -250 || d > 250 {
			t.Errorf("endpoint %d: %d of 10000, want %d", i, count[i], want)
		}
	}
}

func TestLocalityWeights(t *testing.T) {
	eps := lbtest.Endpoints(1, 1, 1, 1, 1)
	for i, l := range []struct {
		region string
		weight uint32
	}{{"a", 70}, {"a", 70}, {"b", 20}, {"c", 10}, {"d", 0}} {
		eps[i].Locality, eps[i].LocalityWeight = &corev3.Locality{Region: l.region}, l.weight
	}
	p := &lb.Policy{Algorithm: lb.RoundRobin, LocalityWeighted: true}
	check := func(want ...int) {
		t.Helper()
		count := spread(t, lb.NewHostSet(p, eps), eps)
		for i := range want {
			if d := count[i] - want[i]; d < -150 || d > 150 {
				t.Errorf("endpoint %d: %d of 10000, want %d", i, count[i], want[i])
			}
		}
	}
	check(3500, 3500, 2000, 1000, 0)
	eject(eps[0], 0) // 70 × min(1, 1.4 × 1/2) = 49, of 49 + 20 + 10
	check(0, 6203, 2532, 1266, 0)
	eject(eps[1], 0)
	check(0, 0, 6667, 3333, 0)
	p.LocalityWeighted = false // 3 of 5 left, by turns
	check(0, 0, 3333, 3333, 3333)
}

func spread(t *testing.T, s *lb.HostSet, eps []*lb.Endpoint) []int {
	t.Helper()
	rnd, count := lbtest.Rand(11), make([]int, len(eps))
	for range 10000 {
		count[index(eps, pick(t, s, lb.PickInfo{Rand: rnd}).Endpoint)]++
	}
	return count
}

func TestEDSHealth(t *testing.T) {
	eps := tiers(3)
	eps[0].Status, eps[1].Status = corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING
	s := lb.NewHostSet(&lb.Policy{}, eps)
	for range 20 {
		if e := pick(t, s, lb.PickInfo{}).Endpoint; e != eps[2] {
			t.Fatalf("picked an endpoint that EDS calls %v", e.Status)
		}
	}
}

func TestAnotherWell(t *testing.T) {
	eps := tiers(2, 1)
	s := lb.NewHostSet(&lb.Policy{}, eps)
	check := func(want, cross bool) {
		t.Helper()
		if got := s.AnotherWell(eps[0].Host, cross); got != want {
			t.Errorf("AnotherWell(cross %v) = %v", cross, got)
		}
	}
	check(true, false)
	eps[1].SetSuspect(true)
	check(false, false)
	check(true, true)
	eject(eps[2], 0)
	check(false, true)
	eps[1].SetSuspect(false)
	check(true, false)
}

// Every pick that has its Done leaves the counters as they were, whatever the outcomes and however many workers.
func TestDoneKeepsAccounts(t *testing.T) {
	eps := tiers(3, 2)
	s := lb.NewHostSet(&lb.Policy{Algorithm: lb.LeastRequest}, eps)
	rep := &lbtest.Reporter{}
	const workers, rounds = 4, 500
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 9))
			var open []*lb.Result
			for range rounds {
				r, err := s.Pick(&lb.PickInfo{Rand: rnd.Uint64})
				if err != nil {
					t.Error(err)
					return
				}
				r.Attach(rep, true)
				open = append(open, &r)
				for len(open) > rnd.IntN(8) {
					open[0].Done(lb.Outcome{Kind: lb.OutcomeKind(rnd.IntN(int(lb.OurFault) + 1)), Status: 200 + 100*rnd.IntN(4)})
					open = open[1:]
				}
			}
			for _, r := range open {
				r.Done(lb.Outcome{})
			}
		})
	}
	wg.Wait()
	var total uint64
	for _, e := range eps {
		total += e.Stats.RqTotal.Value()
		if n := e.Stats.RqActive.Value(); n != 0 {
			t.Errorf("%v: %d active at the end", e, n)
		}
	}
	if total != workers*rounds || len(rep.Reports) != workers*rounds || rep.Released != workers*rounds {
		t.Errorf("%d picked, %d reported, %d released, want %d", total, len(rep.Reports), rep.Released, workers*rounds)
	}
}

func TestDoneTwice(t *testing.T) {
	r := pick(t, lb.NewHostSet(&lb.Policy{}, tiers(1)), lb.PickInfo{})
	r.Attach(&lbtest.Reporter{}, true)
	r.Done(lb.Outcome{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a second Done does not panic with Debug")
			}
		}()
		r.Done(lb.Outcome{})
	}()
	lb.Debug = false
	defer func() { lb.Debug = true }()
	r.Done(lb.Outcome{Kind: lb.Response, Status: 200})
	if n := r.Endpoint.Stats.RqActive.Value(); n != 0 || r.Endpoint.Stats.RqSuccess.Value() != 0 {
		t.Errorf("a second Done counts: %d active", n)
	}
}

func TestConnectAverage(t *testing.T) {
	h := &lb.Host{}
	if h.UsualConnect() != 0 {
		t.Error("a host that was never reached has a usual connect time")
	}
	h.ObserveConnect(80 * time.Millisecond)
	h.ObserveConnect(160 * time.Millisecond)
	if got := h.UsualConnect(); got != 90*time.Millisecond {
		t.Errorf("average %v, want 90ms", got)
	}
}

// BenchmarkPick gives the first of two priorities, each of so many hosts, to a first attempt.
func BenchmarkPick(b *testing.B) {
	for _, a := range []struct {
		name string
		lb.Algorithm
	}{{"RoundRobin", lb.RoundRobin}, {"LeastRequest", lb.LeastRequest}, {"Random", lb.Random}} {
		for _, n := range []int{1, 4, 100} {
			b.Run(fmt.Sprintf("%s/hosts=%d", a.name, n), func(b *testing.B) {
				s := lb.NewHostSet(&lb.Policy{Algorithm: a.Algorithm}, tiers(n, n))
				in := &lb.PickInfo{Now: now}
				b.ReportAllocs()
				for b.Loop() {
					if r, err := s.Pick(in); err != nil || r.Endpoint.Priority != 0 {
						b.Fatal(r.Endpoint, err)
					}
				}
			})
		}
	}
}
