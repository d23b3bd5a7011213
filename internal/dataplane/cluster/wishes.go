package cluster

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Wish is a worker's wish for a place among a cluster's connections, made while its requests wait and the limit is reached.
type Wish struct {
	Since time.Time
	// Held is how many places the worker has.
	Held atomic.Int64
	// Grant gives it one that its former holder no longer counts as its own. It is called on the loop of that one.
	Grant func()
}

// Wishes are those of all workers, the oldest first.
type Wishes struct {
	n    atomic.Int32 // len(list), so that nothing is locked where nobody wishes
	mu   sync.Mutex
	list []*Wish // guarded by mu
}

// Any says whether there is a wish. A wish made before the call is seen.
func (w *Wishes) Any() bool { return w.n.Load() > 0 }

// Add makes a wish.
func (w *Wishes) Add(wish *Wish) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, wish)
	w.n.Store(int32(len(w.list)))
}

// Remove takes a wish back, unless it is being granted.
func (w *Wishes) Remove(wish *Wish) { w.Take(func(x *Wish) bool { return x == wish }) }

// Has says whether a wish fits.
func (w *Wishes) Has(fits func(*Wish) bool) bool {
	if !w.Any() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.list, fits)
}

// Take takes the oldest wish that fits out, nil if there is none. The caller has to grant it.
func (w *Wishes) Take(fits func(*Wish) bool) *Wish {
	if !w.Any() {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.list, fits)
	if i < 0 {
		return nil
	}
	wish := w.list[i]
	w.list = slices.Delete(w.list, i, i+1)
	w.n.Store(int32(len(w.list)))
	return wish
}
