//go:build unix

package event

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// acceptsPerTurn bounds how many connections one listener takes before others get their turn.
const acceptsPerTurn = 32

// maxBacklog bounds what Finish accepts (net.core.somaxconn's usual value).
const maxBacklog = 4096

// Listener accepts connections from a listening socket, which several dispatchers may share.
type Listener struct {
	sock   *Socket
	d      *Dispatcher
	accept func(fd int, peer netip.AddrPort)
	failed func(error)
	retry  Timer
}

// Listen accepts on fd (listening, non-blocking; a duplicate of its own). accept takes each connection's descriptor,
// non-blocking and close-on-exec. failed hears of errors such as EMFILE, after which accepting pauses for 100 ms.
func (d *Dispatcher) Listen(fd int, accept func(fd int, peer netip.AddrPort), failed func(error)) (*Listener, error) {
	l := &Listener{d: d, accept: accept, failed: failed}
	l.retry.Init(d, func() { l.sock.Again() })
	sock, err := d.NewSocket(fd, l)
	if err != nil {
		return nil, err
	}
	sock.shared = true
	l.sock = sock
	return l, nil
}

// OnEvent implements Handler.
func (l *Listener) OnEvent(readable, _ bool) {
	if !readable {
		return
	}
	for range acceptsPerTurn {
		fd, sa, err := acceptSocket(l.sock.fd)
		switch err {
		case nil:
			l.accept(fd, AddrPort(sa))
			if l.sock.closed {
				return
			}
		case unix.EAGAIN:
			l.sock.readable = false
			return
		case unix.EINTR, unix.ECONNABORTED:
		default:
			l.failed(err)
			l.retry.Schedule(acceptPause)
			return
		}
	}
	l.sock.Again()
}

// Finish accepts what waits already, since closing would reset it, and closes.
func (l *Listener) Finish() {
	for range maxBacklog / acceptsPerTurn {
		if l.sock.readable = true; l.sock.closed {
			return
		}
		l.OnEvent(true, false)
		if !l.sock.readable {
			break
		}
	}
	l.Close()
}

// Close stops accepting and closes the descriptor.
func (l *Listener) Close() {
	l.retry.Stop()
	l.sock.Close()
}
