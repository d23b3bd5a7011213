// Package event owns the event loop that drives the data plane: non-blocking sockets, timers and calls posted from
// other goroutines, all run on one goroutine per worker. Decisions (codec, connection manager, router, balancing,
// retry) are written as steps that this loop calls; none of them blocks (DESIGN.md, rule 8).
//
// Everything here but Post, Stop and the constructor must be called on the dispatcher's own goroutine.
package event

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// ErrAgain says that a read or write would block: the handler is called again when that changes.
var ErrAgain = errors.New("would block")

// Dispatcher is one event loop (Envoy's event dispatcher): a worker has exactly one.
type Dispatcher struct {
	poll    poller // nil in a dispatcher that a test drives by hand
	now     time.Time
	wheel   wheel
	sockets []*Socket // by file descriptor
	gen     int32
	ready   []*Socket // sockets that asked to be called again in this turn
	pipes   pipes
	yield   bool // a goroutine that the loop woke should run before the loop sleeps

	mu     sync.Mutex
	posted []func() // guarded by mu
	ended  bool     // guarded by mu: the poller is closed, its descriptors may be somebody else's by now
	spare  []func() // loop only: the other half of the double buffer
	asleep atomic.Bool
	stop   atomic.Bool
	done   chan struct{}
}

// New makes a dispatcher. Run starts it.
func New() (*Dispatcher, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	d := &Dispatcher{poll: p, now: time.Now(), done: make(chan struct{})}
	d.wheel.init(d.now)
	return d, nil
}

// NewManual makes a dispatcher without sockets, driven by Advance: for tests and simulations in virtual time.
func NewManual(now time.Time) *Dispatcher {
	d := &Dispatcher{now: now, done: make(chan struct{})}
	d.wheel.init(now)
	return d
}

// Now is the time at which the current turn of the loop began. It carries a monotonic reading.
func (d *Dispatcher) Now() time.Time { return d.now }

// Post has fn called on the loop soon. Safe from any goroutine. After Stop, fn may never be called.
func (d *Dispatcher) Post(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	d.posted = append(d.posted, fn)
	if d.asleep.CompareAndSwap(true, false) && d.poll != nil {
		d.poll.wake()
	}
}

// Stop ends Run after the current turn. Safe from any goroutine.
func (d *Dispatcher) Stop() {
	d.stop.Store(true)
	d.Post(func() {})
}

// Done is closed when Run has returned.
func (d *Dispatcher) Done() <-chan struct{} { return d.done }

// Run is the loop. It returns after Stop, and closes every socket that is still open.
func (d *Dispatcher) Run() {
	defer close(d.done)
	defer d.end()
	for !d.stop.Load() {
		d.turn()
	}
	for _, s := range d.sockets {
		if s != nil {
			s.Close()
		}
	}
	d.DropPipes()
}

// Yield says that the caller has given another goroutine something to do. Go's scheduler takes a while, up to 10 ms,
// to notice that the loop's thread sleeps in epoll_wait, so with few processors the loop steps aside first.
func (d *Dispatcher) Yield() { d.yield = true }

func (d *Dispatcher) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended, d.posted = true, nil
	d.poll.close()
}

func (d *Dispatcher) turn() {
	if d.yield {
		d.yield = false
		runtime.Gosched()
	}
	timeout := d.wheel.untilNext(d.now)
	d.asleep.Store(true)
	d.mu.Lock()
	if len(d.posted) > 0 {
		timeout = 0
	}
	d.mu.Unlock()
	if len(d.ready) > 0 {
		timeout = 0
	}
	n := d.poll.wait(d, timeout)
	d.asleep.Store(false)
	d.now = time.Now()
	d.poll.dispatch(d, n)
	d.runReady()
	d.runPosted()
	d.wheel.advance(d.now)
}

// Advance moves a manual dispatcher's clock and runs what is due.
func (d *Dispatcher) Advance(by time.Duration) {
	target := d.now.Add(by)
	d.runPosted()
	for d.now.Before(target) {
		step := min(d.wheel.untilNext(d.now), target.Sub(d.now))
		if step <= 0 {
			step = min(tick, target.Sub(d.now))
		}
		d.now = d.now.Add(step)
		d.wheel.advance(d.now)
		d.runPosted()
	}
}

func (d *Dispatcher) runPosted() {
	d.mu.Lock()
	if len(d.posted) == 0 {
		d.mu.Unlock()
		return
	}
	run := d.posted
	d.posted = d.spare[:0]
	d.mu.Unlock()
	for i, fn := range run {
		fn()
		run[i] = nil
	}
	d.spare = run[:0]
}

// runReady calls the handlers of sockets that stopped before they had drained their readiness.
func (d *Dispatcher) runReady() {
	n := len(d.ready)
	for i := 0; i < n; i++ {
		s := d.ready[i]
		d.ready[i] = nil
		s.queued = false
		if !s.closed {
			s.handler.OnEvent(s.readable, s.writable)
		}
	}
	d.ready = append(d.ready[:0], d.ready[n:]...)
}

func (d *Dispatcher) register(s *Socket) error {
	for len(d.sockets) <= s.fd {
		d.sockets = append(d.sockets, nil)
	}
	d.gen++
	s.gen = d.gen
	d.sockets[s.fd] = s
	if err := d.poll.add(s); err != nil {
		d.sockets[s.fd] = nil
		return err
	}
	return nil
}

func (d *Dispatcher) unregister(s *Socket) {
	if s.fd < len(d.sockets) && d.sockets[s.fd] == s {
		d.sockets[s.fd] = nil
		d.poll.remove(s)
	}
}

// event is called by the poller for each readiness it found. A stale event, of a descriptor closed and used again
// within one turn, carries another generation and is dropped.
func (d *Dispatcher) event(fd int, gen int32, readable, writable, hup bool) {
	if fd >= len(d.sockets) {
		return
	}
	s := d.sockets[fd]
	if s == nil || s.gen != gen {
		return
	}
	s.readable = s.readable || readable || hup
	s.writable = s.writable || writable
	s.hup = s.hup || hup
	s.handler.OnEvent(s.readable, s.writable)
}
