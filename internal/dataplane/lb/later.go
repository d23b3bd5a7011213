package lb

import (
	"sync"
	"sync/atomic"
)

// Tables up to these sizes are made at once, wherever that happens: it takes 3 ms. The largest that Envoy allows takes 3 s and,
// while it is made, 235 MB.
const (
	ringAtOnce  = 1 << 14
	tableAtOnce = DefaultTableSize
)

// later is a large table that is made after the set that it belongs to, off the workers' loops. Until then another one stands
// in: that of the set before, which has the same choices but for endpoints that came, went or were ejected since, or one of
// a size that is made at once. An Envoy's workers go on with the table before as well, until the main thread has made
// the next.
type later struct {
	algorithm Algorithm
	shares    []hashShare
	params    Params

	once sync.Once
	now  atomic.Pointer[hashed]
	done atomic.Bool
}

func newLater(a Algorithm, shares []hashShare, p Params, before hashed) *later {
	l := &later{algorithm: a, shares: shares, params: p}
	if b, ok := before.(*later); ok {
		before = *b.now.Load()
	}
	if before == nil {
		p.MinRingSize, p.MaxRingSize, p.TableSize = min(p.MinRingSize, ringAtOnce), ringAtOnce, tableAtOnce
		before = newHashed(a, shares, p)
	}
	l.now.Store(&before)
	return l
}

// oneAtATime bounds the memory that making tables takes.
var oneAtATime sync.Mutex

func (l *later) make() {
	l.once.Do(func() {
		oneAtATime.Lock()
		defer oneAtATime.Unlock()
		t := newHashed(l.algorithm, l.shares, l.params)
		l.now.Store(&t)
		l.done.Store(true)
	})
}

func (l *later) Choose(in *PickInfo) *Endpoint { return (*l.now.Load()).Choose(in) }

func (l *later) at(hash uint64, attempt uint32) *Endpoint { return (*l.now.Load()).at(hash, attempt) }

// large says whether a table takes too long to be made at once.
func large(a Algorithm, shares []hashShare, p Params) bool {
	if a == Maglev {
		return p.TableSize > tableAtOnce
	}
	return ringSize(shares, p) > ringAtOnce
}

// Complete says that all tables of the set are made. Until then it serves with those of the set before.
func (s *HostSet) Complete() bool {
	for i := range s.tiers {
		if l, ok := s.tiers[i].byHash.(*later); ok && !l.done.Load() {
			return false
		}
	}
	return true
}

// Finish makes the tables that are missing, which may take seconds. It is safe for concurrent use.
func (s *HostSet) Finish() {
	for i := range s.tiers {
		if l, ok := s.tiers[i].byHash.(*later); ok {
			l.make()
		}
	}
}
