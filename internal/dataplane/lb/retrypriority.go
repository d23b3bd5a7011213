package lb

// Priorities is a set of priorities, which are below 128 (EDS proto).
type Priorities [2]uint64

// Add puts a priority into the set.
func (p *Priorities) Add(n uint32) { p[n/64%2] |= 1 << (n % 64) }

// Has says whether a priority is in the set.
func (p *Priorities) Has(n int) bool { return p[n/64%2]&(1<<(n%64)) != 0 }

// chooseOther draws a priority by share among those that are not excluded, as Envoy's previous_priorities does. ok is false
// where none of them is healthy: then nothing is excluded.
func (s *HostSet) chooseOther(in *PickInfo) (priority int, ok bool) {
	var total uint32
	for i := range s.load {
		if !in.Exclude.Has(i) {
			total = min(100, total+s.load[i].Health)
		}
	}
	if total == 0 {
		return 0, false
	}
	at, first, sum := uint32(below(in.random(), 100))+1, -1, uint32(0)
	for i := range s.load {
		if in.Exclude.Has(i) || s.load[i].Health == 0 {
			continue
		}
		if first < 0 {
			first = i
		}
		if sum += s.load[i].Health * 100 / total; at <= sum {
			return i, true
		}
	}
	return first, true // what rounding left over
}
