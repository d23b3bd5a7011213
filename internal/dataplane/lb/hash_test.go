package lb_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/lb/lbtest"
)

// A ring of many hashes and Maglev's table come near enough to the weights for the suite's tolerance.
func TestMaglev(t *testing.T) { lbtest.Suite(t, true, chooser(lb.Maglev)) }

// The ring's share of an endpoint is only about its weight: with n hashes of its own it varies by 1/√n.
func TestRingHashShares(t *testing.T) {
	eps := lbtest.Endpoints(1, 3, 6)
	c := lb.NewChooser(lb.RingHash, eps, lb.Params{MinRingSize: 100000})
	in, count := &lb.PickInfo{Rand: lbtest.Rand(1)}, map[*lb.Endpoint]float64{}
	const picks = 100000
	for range picks {
		count[c.Choose(in)]++
	}
	for i, want := range []float64{0.1, 0.3, 0.6} {
		if got := count[eps[i]] / picks; math.Abs(got-want) > 0.01 {
			t.Errorf("endpoint %d has %.3f of the ring, want %.3f", i, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { c.Choose(in) }); n != 0 {
		t.Errorf("Choose allocates %v times", n)
	}
}

var hashPolicies = map[string]*lb.Policy{
	"ring":   {Algorithm: lb.RingHash, Params: lb.Params{MinRingSize: 4096}},
	"maglev": {Algorithm: lb.Maglev},
}

// owners gives who has each of so many hashes.
func owners(t *testing.T, s *lb.HostSet, tried ...*lb.Host) []*lb.Host {
	t.Helper()
	out, rnd := make([]*lb.Host, 5000), lbtest.Rand(9)
	for i := range out {
		out[i] = pick(t, s, lb.PickInfo{Hash: rnd(), HasHash: true, Tried: tried}).Endpoint.Host
	}
	return out
}

// When an endpoint goes, what it had moves, and little else: a ring of a given size gives each of the others 1/9 more hashes,
// which take something from each other. When it is back, so is what it had.
func TestHashDisruption(t *testing.T) {
	for name, policy := range hashPolicies {
		t.Run(name, func(t *testing.T) {
			eps := tiers(10)
			before := owners(t, lb.NewHostSet(policy, eps))
			eject(eps[3], 0)
			during := owners(t, lb.NewHostSet(policy, eps))
			moved, had := 0, 0
			for i := range before {
				switch {
				case during[i] == eps[3].Host:
					t.Fatal("an ejected endpoint was picked")
				case before[i] == eps[3].Host:
					had++
				case before[i] != during[i]:
					moved++
				}
			}
			if had < 300 || had > 700 || moved > len(before)/10 {
				t.Errorf("%d of %d were its own, %d others moved", had, len(before), moved)
			}
			eps[3].SetEjected(false)
			for i, h := range owners(t, lb.NewHostSet(policy, eps)) {
				if h != before[i] {
					t.Fatal("not as before after its return")
				}
			}
		})
	}
}

// What can't be used at the moment (ejected since the set was made, suspect, tried) is passed over, with the same
// alternative for the same hash; in panic ejection does not matter.
func TestHashAlternatives(t *testing.T) {
	for name, policy := range hashPolicies {
		t.Run(name, func(t *testing.T) {
			eps := tiers(10)
			s := lb.NewHostSet(policy, eps)
			before := owners(t, s)
			eject(eps[0], 0)
			eps[1].SetSuspect(true)
			first := owners(t, s, eps[2].Host)
			for i, h := range owners(t, s, eps[2].Host) {
				switch bad := h == eps[0].Host || h == eps[1].Host || h == eps[2].Host; {
				case bad:
					t.Fatal("an endpoint was picked that can't be used")
				case h != first[i]:
					t.Fatal("another alternative for the same hash")
				case before[i] != h && before[i] != eps[0].Host && before[i] != eps[1].Host && before[i] != eps[2].Host:
					t.Fatal("one moved that was well")
				}
			}
		})
	}
}

// A priority without a healthy endpoint has no table; without panic there is nobody.
func TestHashOfNobody(t *testing.T) {
	for name, policy := range hashPolicies {
		t.Run(name, func(t *testing.T) {
			eps := tiers(2)
			eject(eps[0], 0)
			eject(eps[1], 0)
			if _, err := lb.NewHostSet(policy, eps).Pick(&lb.PickInfo{Hash: 7, HasHash: true}); !errors.Is(err, lb.ErrNoHealthyHost) {
				t.Errorf("%v", err)
			}
			compat := *policy
			compat.CompatEnvoy = true
			if _, err := lb.NewHostSet(&compat, eps).Pick(&lb.PickInfo{Hash: 7, HasHash: true}); !errors.Is(err, lb.ErrNoHealthyHost) {
				t.Errorf("compat: %v", err)
			}
			compat.PanicThreshold = 50
			if r := pick(t, lb.NewHostSet(&compat, eps), lb.PickInfo{Hash: 7, HasHash: true}); !r.Panic {
				t.Error("no panic")
			}
		})
	}
}

// Pick neither allocates nor locks with a hash.
func TestHashPickAllocations(t *testing.T) {
	for name, policy := range hashPolicies {
		s, in := lb.NewHostSet(policy, tiers(4, 4)), &lb.PickInfo{Now: now, HasHash: true}
		if n := testing.AllocsPerRun(100, func() { in.Hash += 12345678912345; _, _ = s.Pick(in) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestLargeTables: a change of the endpoints' health never waits for a table that takes long to be made. Until it is there the
// one before serves, without the ejected; then each hash has the endpoint that it would have had at once.
func TestLargeTables(t *testing.T) {
	for name, p := range map[string]*lb.Policy{
		"ring":          {Algorithm: lb.RingHash, Params: lb.Params{MinRingSize: 1 << 15}},
		"maglev":        {Algorithm: lb.Maglev, Params: lb.Params{TableSize: 131071}},
		"uneven weight": {Algorithm: lb.RingHash},
	} {
		t.Run(name, func(t *testing.T) {
			eps := tiers(4, 4)
			if name == "uneven weight" {
				eps[0].Weight, eps[4].Weight = 1<<15, 1<<15
			}
			first := lb.NewHostSet(p, eps)
			if !first.Complete() || !first.Next(p, eps).Complete() {
				t.Fatal("tables are missing, where all or none are new")
			}
			before := owners(t, first)
			eject(eps[1], 0)
			next, want := first.Next(p, eps), owners(t, lb.NewHostSet(p, eps))
			if next.Complete() {
				t.Error("the table was made at once")
			}
			for i, h := range owners(t, next) {
				if h == eps[1].Host || before[i] != eps[1].Host && h != before[i] {
					t.Fatalf("hash %d went to %v, before to %v", i, h, before[i])
				}
			}
			next.Finish()
			if !next.Complete() || !slices.Equal(owners(t, next), want) {
				t.Error("finished, it is not the table of these endpoints")
			}
		})
	}
	t.Run("nothing before", func(t *testing.T) {
		p, eps := &lb.Policy{Algorithm: lb.RingHash, Params: lb.Params{MinRingSize: 1 << 16}}, tiers(4)
		s := (*lb.HostSet)(nil).Next(p, eps)
		owners(t, s) // each hash has one
		if s.Complete() || s.Next(p, eps).Complete() {
			t.Error("the stand-in is taken for the table")
		}
	})
}
