// Package stats owns detour's counters, gauges and histograms, under Envoy's names, and their rendering in Envoy's three
// forms (text, JSON, Prometheus).
//
// The hot path holds a pointer to a scope (Cluster, Listener, HTTP, TCP, …) and touches plain fields: no lookup, no lock,
// one atomic operation for each change. A scope's names come from struct tags and are read only when somebody asks for
// the statistics. The Registry hands scopes out and forgets them when what they count is gone.
package stats

import (
	"sync/atomic"
)

// Counter only ever grows. The zero value is ready; it must not be copied.
type Counter struct{ v atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.v.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Add(n) }

// Value gives the count.
func (c *Counter) Value() uint64 { return c.v.Load() }

// Gauge goes up and down. The zero value is ready; it must not be copied. A value below zero is kept, and rendered as 0,
// since Envoy's gauges are unsigned.
type Gauge struct{ v atomic.Int64 }

// Inc adds one.
func (g *Gauge) Inc() { g.v.Add(1) }

// Dec takes one away.
func (g *Gauge) Dec() { g.v.Add(-1) }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) { g.v.Add(n) }

// Set replaces the value.
func (g *Gauge) Set(n int64) { g.v.Store(n) }

// Value gives the value.
func (g *Gauge) Value() int64 { return g.v.Load() }

// Codes counts final response codes: for Envoy's PREFIX_completed, PREFIX_2xx and PREFIX_200 in one atomic operation, the
// sums being made when they are asked for. Its pages come into being with the first answer of their class, so that an
// idle cluster costs no more than a few words. The zero value is ready; it must not be copied.
type Codes struct {
	pages   [5]atomic.Pointer[[100]Counter]
	unknown Counter
}

// Inc counts one final response. A code outside 100 to 599 counts as PREFIX_unknown, as in Envoy.
func (c *Codes) Inc(code int) {
	i := code/100 - 1
	if code < 100 || i >= len(c.pages) {
		c.unknown.Inc()
		return
	}
	p := c.pages[i].Load()
	if p == nil {
		p = c.page(i)
	}
	p[code%100].Inc()
}

func (c *Codes) page(i int) *[100]Counter {
	p := new([100]Counter)
	if c.pages[i].CompareAndSwap(nil, p) {
		return p
	}
	return c.pages[i].Load()
}

// Value gives how often a code was counted.
func (c *Codes) Value(code int) uint64 {
	if code < 100 || code > 599 {
		return c.unknown.Value()
	}
	p := c.pages[code/100-1].Load()
	if p == nil {
		return 0
	}
	return p[code%100].Value()
}

// Class gives the number of answers of one class, 1 (1xx) to 5 (5xx).
func (c *Codes) Class(class int) (n uint64) {
	if class < 1 || class > len(c.pages) {
		return 0
	}
	p := c.pages[class-1].Load()
	if p == nil {
		return 0
	}
	for i := range p {
		n += p[i].Value()
	}
	return n
}

// Completed gives the number of all answers.
func (c *Codes) Completed() uint64 {
	n := c.unknown.Value()
	for class := 1; class <= len(c.pages); class++ {
		n += c.Class(class)
	}
	return n
}

// Classes counts final response codes by class only: PREFIX_completed and PREFIX_2xx. The zero value is ready; it must not
// be copied.
type Classes struct {
	n [6]Counter // 0: outside 100 to 599, in completed only
}

// Inc counts one final response.
func (c *Classes) Inc(code int) {
	class := code / 100
	if class < 1 || class > 5 {
		class = 0
	}
	c.n[class].Inc()
}

// Class gives the number of answers of one class, 1 (1xx) to 5 (5xx).
func (c *Classes) Class(class int) uint64 {
	if class < 1 || class > 5 {
		return 0
	}
	return c.n[class].Value()
}

// Completed gives the number of all answers.
func (c *Classes) Completed() (n uint64) {
	for i := range c.n {
		n += c.n[i].Value()
	}
	return n
}
