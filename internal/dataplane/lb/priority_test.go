package lb

import (
	"slices"
	"testing"
)

// The values are Envoy's: the tables of its "Priority levels" and "Panic threshold" pages, and hand-computed from
// LoadBalancerBase where those have none.
func TestLoads(t *testing.T) {
	type tiers = []TierHealth
	for _, tc := range []struct {
		name  string
		tiers tiers
		over  uint32
		panic float64
		loads []uint32
		inP   []bool
	}{
		{"all healthy", tiers{{4, 4}, {4, 4}}, 140, 50, []uint32{100, 0}, []bool{false, false}},
		{"72 % are enough", tiers{{100, 72}, {4, 4}}, 140, 50, []uint32{100, 0}, []bool{false, false}},
		{"71 % are not", tiers{{100, 71}, {4, 4}}, 140, 50, []uint32{99, 1}, []bool{false, false}},
		{"half", tiers{{2, 1}, {2, 2}}, 140, 0, []uint32{70, 30}, []bool{false, false}},
		{"none", tiers{{2, 0}, {2, 2}}, 140, 0, []uint32{0, 100}, []bool{false, false}},
		{"25 % and 25 %", tiers{{4, 1}, {4, 1}}, 140, 0, []uint32{50, 50}, []bool{false, false}},
		{"25 % and 20 %, rounding goes to the first", tiers{{4, 1}, {5, 1}}, 140, 0, []uint32{56, 44}, []bool{false, false}},
		{"three tiers, page", tiers{{100, 20}, {100, 20}, {100, 10}}, 140, 0, []uint32{40, 40, 20}, []bool{false, false, false}},
		{"three tiers, first two spill", tiers{{2, 0}, {2, 1}, {2, 2}}, 140, 0, []uint32{0, 70, 30}, []bool{false, false, false}},
		{"three tiers, all but the last out", tiers{{1, 0}, {1, 0}, {1, 1}}, 140, 0, []uint32{0, 0, 100}, []bool{false, false, false}},
		{"empty first tier", tiers{{0, 0}, {1, 1}}, 140, 50, []uint32{0, 100}, []bool{false, false}},
		{"nothing healthy, no panic", tiers{{2, 0}, {2, 0}}, 140, 0, []uint32{100, 0}, []bool{false, false}},
		{"nothing healthy, panic by size", tiers{{3, 0}, {1, 0}}, 140, 50, []uint32{75, 25}, []bool{true, true}},
		{"no hosts at all, panic", tiers{{0, 0}}, 140, 50, []uint32{100}, []bool{true}},
		{"a sick tier is not in panic while the total is 100", tiers{{4, 1}, {4, 4}}, 140, 50, []uint32{35, 65}, []bool{false, false}},
		{"panic in one tier when the total is below 100", tiers{{10, 2}, {10, 5}}, 140, 30, []uint32{29, 71}, []bool{true, false}},
		{"all-or-nothing by factor", tiers{{10, 1}, {1, 1}}, 100000, 0, []uint32{100, 0}, []bool{false, false}},
		{"factor 100", tiers{{2, 1}, {1, 1}}, 100, 0, []uint32{50, 50}, []bool{false, false}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var loads []uint32
			var inP []bool
			sum := uint32(0)
			for _, l := range Loads(tc.tiers, tc.over, tc.panic) {
				loads, inP, sum = append(loads, l.Load), append(inP, l.Panic), sum+l.Load
			}
			if !slices.Equal(loads, tc.loads) || !slices.Equal(inP, tc.inP) {
				t.Errorf("loads %v panic %v, want %v %v", loads, inP, tc.loads, tc.inP)
			}
			if sum != 100 {
				t.Errorf("loads add up to %d", sum)
			}
		})
	}
}

// Whatever the health, the loads add up to 100 and nothing goes to a tier that has nobody to serve it.
func FuzzLoads(f *testing.F) {
	f.Add([]byte{4, 2, 4, 4, 0, 0}, uint32(140), 0.0)
	f.Add([]byte{255, 1}, uint32(1<<31), 100.0)
	f.Fuzz(func(t *testing.T, b []byte, over uint32, panic float64) {
		var tiers []TierHealth
		any := false
		for i := 0; i+1 < len(b); i += 2 {
			h := TierHealth{uint64(b[i]), uint64(min(b[i], b[i+1]))}
			tiers, any = append(tiers, h), any || uint64(over)*h.Healthy >= h.Hosts && h.Healthy > 0
		}
		if len(tiers) == 0 || over < 100 {
			return
		}
		sum := uint32(0)
		for i, l := range Loads(tiers, over, min(max(panic, 0), 100)) {
			sum += l.Load
			if l.Load > 0 && any && !l.Panic && tiers[i].Healthy == 0 {
				t.Errorf("tier %d of %v has load %d and nobody healthy", i, tiers, l.Load)
			}
		}
		if sum != 100 {
			t.Errorf("%v: loads add up to %d", tiers, sum)
		}
	})
}
