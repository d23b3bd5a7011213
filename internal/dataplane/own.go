package dataplane

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/listener"
	"detour.dev/detour/internal/xds"
)

// Listeners with a socket of their own (bind_to_port): applications connect to it, and nothing is redirected. Where a
// connection of theirs wanted to go is thus not known: what nothing declares and ORIGINAL_DST clusters answer as Envoy does
// without an original destination.

// ownSockets are the open ones. They stay open as long as some listener of the snapshot in force has the address, whatever
// else changes.
type ownSockets struct {
	serving bool // ServeOwn was called
	open    map[listener.Own]*listener.Socket
}

// ownersOf finds the listener of each socket; the first of two with one address has it.
func ownersOf(all []*listener.Config) map[listener.Own]*listener.Config {
	out := map[listener.Own]*listener.Config{}
	for _, c := range all {
		for _, o := range c.Own {
			if out[o] == nil {
				out[o] = c
			}
		}
	}
	return out
}

// ServeOwn opens the sockets that the snapshot's listeners have of their own, and from now on those of every snapshot. It
// gives those that could not be opened; each further Set tries them again.
func (p *Plane) ServeOwn() []xds.Rejection {
	p.updates.Lock()
	defer p.updates.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own.serving = true
	bad := p.openOwn(p.state.Load())
	p.rejected = append(slices.Clone(p.rejected), bad...)
	return bad
}

// openOwn closes the sockets that no listener has any more and opens those that are new. p.mu is held.
func (p *Plane) openOwn(st *state) (bad []xds.Rejection) {
	if !p.own.serving || p.draining.Load() {
		return nil
	}
	for o, s := range p.own.open {
		if st.own[o] == nil {
			s.Remove()
			delete(p.own.open, o)
			p.bound = slices.DeleteFunc(p.bound, func(b Bound) bool { return b.Own == o })
			p.closeOwn(o)
		}
	}
	for _, o := range slices.SortedFunc(maps.Keys(st.own), func(a, b listener.Own) int { return strings.Compare(a.String(), b.String()) }) {
		if p.own.open[o] != nil {
			continue
		}
		if err := p.listenOwn(o, st.own[o].Name); err != nil {
			bad = append(bad, xds.Rejection{TypeURL: listenerType, Name: st.own[o].Name, Listen: o.String(),
				Reason: "can't listen on " + o.String() + ": " + err.Error()})
		}
	}
	return bad
}

// closeOwn takes a socket from all workers and returns when none has it: the address is free then.
func (p *Plane) closeOwn(o listener.Own) {
	for _, w := range p.workers {
		done := make(chan struct{})
		w.d.Post(func() {
			if l := w.own[o]; l != nil {
				l.Finish()
				delete(w.own, o)
				delete(w.listeners, l)
			}
			close(done)
		})
		select {
		case <-done:
		case <-w.d.Done():
		}
	}
}

func (p *Plane) listenOwn(o listener.Own, name string) error {
	s, err := listener.Open(o, p.NewSocket)
	if err != nil {
		return err
	}
	for i, w := range p.workers {
		fd := s.FD
		if i > 0 {
			if fd, err = unix.FcntlInt(uintptr(s.FD), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				p.Log.Warn("a worker does not listen; the fault is here", "address", o.String(), "error", err)
				continue
			}
		}
		w.d.Post(func() { w.listenOwn(fd, o) })
	}
	if p.own.open == nil {
		p.own.open = map[listener.Own]*listener.Socket{}
	}
	p.own.open[o] = s
	p.bound = append(p.bound, Bound{Name: name, Own: o})
	return nil
}

// removeOwn removes the files of Unix sockets; workers close the sockets themselves.
func (p *Plane) removeOwn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.own.open {
		s.Remove()
	}
	clear(p.own.open)
}

func (w *worker) listenOwn(fd int, o listener.Own) {
	if w.p.draining.Load() {
		unix.Close(fd)
		return
	}
	l, err := w.d.Listen(fd, func(fd int, peer netip.AddrPort) { w.acceptOwn(fd, peer, o) }, w.p.acceptFailed)
	if err != nil {
		w.p.Log.Error("listener failed", "address", o.String(), "error", err)
		return
	}
	w.listeners[l], w.own[o] = true, l
}

// acceptOwn gives a connection to the listener that has the socket now.
func (w *worker) acceptOwn(fd int, peer netip.AddrPort, o listener.Own) {
	l := w.p.state.Load().own[o]
	if l == nil {
		unix.Close(fd)
		return
	}
	if o.Path == "" {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	s, err := w.d.NewSocket(fd, idleHandler{})
	if err != nil {
		w.p.Log.Warn("a connection could not be watched; the fault is here", "error", err)
		return
	}
	in := &inbound{s: s, remote: peer, local: s.LocalAddr(), own: true, path: o.Path, declared: true}
	w.dispatchTo(in, l)
}
