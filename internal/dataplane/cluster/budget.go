package cluster

import (
	"math"
	"sync/atomic"
	"time"
)

// window counts events of the last 10 s in buckets of one second, without a lock. Each bucket packs its second (upper 32
// bits) and its count.
// Most clusters of a large configuration are never used, so there are no buckets before the first event.
type window struct {
	buckets atomic.Pointer[buckets]
}

type buckets [16]atomic.Uint64

const windowSeconds = 10

func (w *window) add(now time.Time) {
	all := w.buckets.Load()
	if all == nil {
		w.buckets.CompareAndSwap(nil, &buckets{})
		all = w.buckets.Load()
	}
	sec := uint64(uint32(now.Unix()))
	b := &all[sec%uint64(len(all))]
	for {
		old := b.Load()
		if old>>32 == sec {
			b.Add(1)
			return
		}
		if b.CompareAndSwap(old, sec<<32|1) {
			return
		}
	}
}

func (w *window) sum(now time.Time) (n uint64) { return w.last(now, windowSeconds) }

// last counts the events of so many seconds, at most 15.
func (w *window) last(now time.Time, seconds int32) (n uint64) {
	all := w.buckets.Load()
	if all == nil {
		return 0
	}
	sec := uint32(now.Unix())
	for i := range all {
		b := all[i].Load()
		// A worker whose clock is read a moment later may be a second ahead.
		if age := int32(sec - uint32(b>>32)); age >= -1 && age < seconds {
			n += uint64(uint32(b))
		}
	}
	return n
}

// Budget bounds what detour does beyond what it was asked: retries (E2) and hedges (E3). It is lock-free; two workers that
// ask at the same moment may exceed it by one.
type Budget struct {
	percent  uint64 // of the base events of the last 10 s
	least    uint64 // so many in 10 s are always allowed
	atOnce   int64  // while fewer than this run, always allowed
	base     window
	spent    window
	inFlight atomic.Int64
}

// newRetryBudget is DESIGN.md's E2: 20 % of the requests of the last 10 s, at least 3 at once.
func newRetryBudget() *Budget { return &Budget{percent: 20, atOnce: 3} }

// newHedgeBudget is DESIGN.md's E3: 10 % of the dials of the last 10 s, at least 10.
func newHedgeBudget() *Budget { return &Budget{percent: 10, least: 10} }

// Count adds a base event: a request for the retry budget (Pick does it for first attempts), a dial for the hedge budget
// (the pools do it).
func (b *Budget) Count(now time.Time) { b.base.add(now) }

// TryAcquire takes one from the budget, if there is one; Release must follow when it has run.
func (b *Budget) TryAcquire(now time.Time) bool {
	if b.inFlight.Load() >= b.atOnce {
		allowed := max(b.least, b.percent*b.base.sum(now)/100)
		if b.spent.sum(now) >= allowed {
			return false
		}
	}
	b.inFlight.Add(1)
	b.spent.add(now)
	return true
}

// Release says that what TryAcquire allowed has ended.
func (b *Budget) Release() { b.inFlight.Add(-1) }

// InFlight counts what TryAcquire allowed and what has not ended.
func (b *Budget) InFlight() int64 { return b.inFlight.Load() }

// Limit is one threshold of a circuit breaker. It survives a change of configuration with what is in flight.
type Limit struct {
	max    atomic.Uint32
	active atomic.Int64
	// budget, unless nil, says what the limit is instead of max.
	budget atomic.Pointer[func() int64]
	gauge  interface{ Set(int64) } // 1 while it is reached; nil: not shown
}

// TryAcquire takes one, or says that the limit is reached (response flag UO). Release must follow.
func (l *Limit) TryAcquire() bool {
	m := l.now()
	n := l.active.Add(1)
	if m == math.MaxUint32 {
		return true
	}
	if n > m {
		l.active.Add(-1)
		return false
	}
	if n == m && l.gauge != nil {
		l.gauge.Set(1)
	}
	return true
}

// now is the limit as it is now.
func (l *Limit) now() int64 {
	if b := l.budget.Load(); b != nil {
		return (*b)()
	}
	return int64(l.max.Load())
}

// remaining is how many may be taken; where there is no limit, always math.MaxUint32.
func (l *Limit) remaining() int64 {
	m := l.now()
	if m == math.MaxUint32 {
		return m
	}
	return max(m-l.active.Load(), 0)
}

// Release gives one back.
func (l *Limit) Release() {
	n := l.active.Add(-1)
	if m := int64(l.max.Load()); m != math.MaxUint32 && n == m-1 && l.gauge != nil {
		l.gauge.Set(0)
	}
}

// Active counts what is in flight.
func (l *Limit) Active() int64 { return l.active.Load() }

// Max gives the limit; math.MaxUint32 means none.
func (l *Limit) Max() uint32 { return l.max.Load() }

// Breaker is a cluster's circuit breaker, for all workers together (circuit_breakers.thresholds, DEFAULT priority).
// Requests are counted only while they are limited, to spare the workers a shared counter.
type Breaker struct {
	Connections, Pending, Requests, Retries Limit
	// Wishes are for places among the connections.
	Wishes Wishes
}

// RetryBudget is circuit_breakers.retry_budget, which stands in for max_retries.
type RetryBudget struct {
	Percent  float64       // of the requests, default 20
	Least    uint32        // min_retry_concurrency, default 3: so many are always allowed at once
	Interval time.Duration // 0: of the requests that are active or wait; else of those that began within it
}

// limitRetries puts max_retries, or the budget in its place, in force. l.mu is held.
func (l *live) limitRetries(limits Limits) {
	r := &l.breaker.Retries
	r.max.Store(limits.MaxRetries)
	b := limits.RetryBudget
	if b == nil {
		r.budget.Store(nil)
		return
	}
	c := l.current
	allowed := func() int64 {
		return max(int64(b.Least), int64(b.Percent*float64(l.requests(c, b.Interval))/100))
	}
	r.budget.Store(&allowed)
}

// requests counts what a retry budget is a share of.
func (l *live) requests(c *Cluster, interval time.Duration) (n int64) {
	if interval > 0 { // counted by whole seconds, and from 15 s on at the rate of the last 15
		seconds := (interval + time.Second - 1) / time.Second
		n = int64(l.retry.base.last(time.Now(), int32(min(seconds, 15))))
		return n * int64(max(seconds, 15)) / 15
	}
	for _, e := range c.endpoints() {
		n += e.Stats.RqActive.Value()
	}
	return n + l.breaker.Pending.Active()
}
