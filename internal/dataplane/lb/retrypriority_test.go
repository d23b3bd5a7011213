package lb

import "testing"

// TestPreviousPriorities: a retry leaves the priorities out that had the request, until none is left.
func TestPreviousPriorities(t *testing.T) {
	s := &HostSet{load: []TierLoad{{Health: 100, Load: 100}, {Health: 30}, {Health: 100}}}
	for _, c := range []struct {
		name    string
		exclude []uint32
		draws   map[uint64]int // from 0 to 99
		ok      bool
	}{
		{"the first", []uint32{0}, map[uint64]int{0: 1, 29: 1, 30: 2, 99: 2}, true},
		{"the first two", []uint32{0, 1}, map[uint64]int{0: 2, 99: 2}, true},
		{"all but a weak one", []uint32{0, 2}, map[uint64]int{0: 1, 99: 1}, true},
		{"all", []uint32{0, 1, 2}, map[uint64]int{0: 0}, false},
	} {
		in := &PickInfo{}
		for _, p := range c.exclude {
			in.Exclude.Add(p)
		}
		for n, want := range c.draws {
			in.Rand = func() uint64 { return draw(n) }
			if got, ok := s.chooseOther(in); got != want || ok != c.ok {
				t.Errorf("%s, %d: %d %v, want %d %v", c.name, n, got, ok, want, c.ok)
			}
		}
	}
}

// draw gives a random value for which below(value, 100) is n.
func draw(n uint64) uint64 {
	for v := uint64(0); ; v += 1 << 50 {
		if uint64(below(v, 100)) == n {
			return v
		}
	}
}
