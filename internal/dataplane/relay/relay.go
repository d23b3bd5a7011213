// Package relay moves bytes both ways between two streams until both directions have ended: TCP and TLS connections,
// CONNECT tunnels, upgraded connections. Nothing is interpreted. Each direction holds at most one buffer, or one pipe of the
// kernel's where both ends are plain sockets and much is moving; a slow receiver stops its sender. The end of one direction is passed on as such; a reset ends both with a reset.
package relay

import (
	"errors"
	"io"
	"time"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/event"
)

// ErrIdle ends a relay on which nothing moved for its idle time.
var ErrIdle = errors.New("idle timeout")

// Relay is one pair of streams. A is the client's side.
type Relay struct {
	a, b event.Stream
	// Up moves from a to b, Down from b to a.
	Up, Down Flow

	d       *event.Dispatcher
	pool    *buffer.Pool
	idle    event.Timer
	idleFor time.Duration
	moved   bool // since the idle timer was armed
	done    func(err error)
	ended   bool
}

// Flow is one direction.
type Flow struct {
	from, to event.Stream
	buf      []byte
	lo, hi   int
	eof      bool // from has ended
	fin      bool // and to was told
	bulk     bool // much is moving: splice
	splice   event.Splice
	sockets  bool // both ends are sockets
	// Bytes counts what was written.
	Bytes uint64
	// After counts what was written since the relay began, without what it was given at the start.
	After uint64
	early int
}

// Options of a relay. Both streams belong to the relay until done is called; then they are closed.
type Options struct {
	Dispatcher *event.Dispatcher
	Pool       *buffer.Pool
	Idle       time.Duration // 0: none
	// ToB and ToA are bytes to send before any other; they are copied.
	ToB, ToA []byte
	Done     func(err error)
}

// Start begins to relay. err in Done is nil when both directions ended in order.
func Start(a, b event.Stream, o Options) *Relay {
	r := &Relay{d: o.Dispatcher, a: a, b: b, pool: o.Pool, idleFor: o.Idle, done: o.Done}
	_, plainA := a.(*event.Socket)
	_, plainB := b.(*event.Socket)
	r.Up = Flow{from: a, to: b, sockets: plainA && plainB}
	r.Down = Flow{from: b, to: a, sockets: plainA && plainB}
	r.Up.preload(r.pool, o.ToB)
	r.Down.preload(r.pool, o.ToA)
	r.idle.Init(o.Dispatcher, r.onIdle)
	if r.idleFor > 0 {
		r.idle.Schedule(r.idleFor)
	}
	a.SetHandler((*sideA)(r))
	b.SetHandler((*sideB)(r))
	a.Again()
	b.Again()
	return r
}

func (f *Flow) preload(p *buffer.Pool, data []byte) {
	if len(data) == 0 {
		return
	}
	f.buf = p.Get()
	if len(data) > len(f.buf) {
		f.buf = make([]byte, len(data))
	}
	f.hi = copy(f.buf, data)
	f.early = f.hi
}

type sideA Relay

// OnEvent implements event.Handler for the client's stream.
func (s *sideA) OnEvent(readable, writable bool) {
	r := (*Relay)(s)
	if writable {
		r.move(&r.Down)
	}
	if readable {
		r.move(&r.Up)
	}
}

type sideB Relay

// OnEvent implements event.Handler for the endpoint's stream.
func (s *sideB) OnEvent(readable, writable bool) {
	r := (*Relay)(s)
	if writable {
		r.move(&r.Up)
	}
	if readable {
		r.move(&r.Down)
	}
}

// turnBytes bounds what one direction moves before others get their turn.
const turnBytes = 1 << 20

func (r *Relay) move(f *Flow) {
	moved := 0
	for !r.ended {
		if f.lo < f.hi || f.splice.Held() > 0 {
			n, err := f.write()
			if err == event.ErrAgain {
				return
			}
			if err != nil {
				r.end(err)
				return
			}
			r.moved = true
			moved += n
			continue
		}
		if f.eof {
			r.finish(f)
			return
		}
		if moved >= turnBytes {
			f.from.Again()
			return
		}
		if !r.fill(f) {
			return
		}
	}
}

// write writes what was read.
func (f *Flow) write() (int, error) {
	if f.splice.Held() > 0 {
		n, err := f.splice.Drain(f.to.(*event.Socket))
		f.Bytes += uint64(n)
		f.After += uint64(n)
		return n, err
	}
	n, err := f.to.Write(f.buf[f.lo:f.hi])
	f.lo += n
	f.Bytes += uint64(n)
	e := min(f.early, n)
	f.early -= e
	f.After += uint64(n - e)
	return n, err
}

// spliceLeast is what splice must find at a time to be worth its cost.
const spliceLeast = 16 << 10

// fill reads once; false: nothing to write now.
func (r *Relay) fill(f *Flow) bool {
	err := event.ErrNoSplice
	if f.bulk {
		r.put(f) // a receiver that lags holds a pipe for long, and one of the two is enough
		var n int
		n, err = f.splice.Fill(f.from.(*event.Socket), turnBytes)
		f.bulk = err == nil && n >= spliceLeast || err == event.ErrAgain
	}
	if err == event.ErrNoSplice {
		err = r.read(f)
	}
	switch {
	case err == event.ErrAgain:
		r.put(f)
		return false
	case err == io.EOF:
		f.eof = true
	case err != nil:
		r.end(err)
		return false
	}
	return true
}

// read reads into the buffer.
func (r *Relay) read(f *Flow) error {
	if f.buf == nil {
		f.buf = r.pool.Get()
	}
	f.lo, f.hi = 0, 0
	n, err := f.from.Read(f.buf)
	if err == nil {
		f.hi = n
		f.bulk = f.sockets && n == len(f.buf)
	}
	return err
}

func (r *Relay) put(f *Flow) {
	if f.buf != nil {
		r.pool.Put(f.buf)
		f.buf, f.lo, f.hi = nil, 0, 0
	}
}

// finish passes the end of one direction on.
func (r *Relay) finish(f *Flow) {
	r.put(f)
	if !f.fin {
		f.fin = true
		if err := f.to.CloseWrite(); err != nil && (!r.Up.eof || !r.Down.eof) {
			r.end(err)
			return
		}
	}
	if r.Up.fin && r.Down.fin {
		r.end(nil)
	}
}

func (r *Relay) onIdle() {
	if r.moved {
		r.moved = false
		r.idle.Schedule(r.idleFor)
		return
	}
	r.end(ErrIdle)
}

// Close ends the relay from outside, with resets.
func (r *Relay) Close() { r.end(errors.New("closed")) }

func (r *Relay) end(err error) {
	if r.ended {
		return
	}
	r.ended = true
	r.idle.Stop()
	for _, f := range []*Flow{&r.Up, &r.Down} {
		r.put(f)
		f.splice.Drop(r.d)
	}
	if err != nil {
		r.a.Abort()
		r.b.Abort()
	} else {
		r.a.Close()
		r.b.Close()
	}
	if r.done != nil {
		r.done(err)
	}
}
