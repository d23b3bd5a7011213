//go:build unix

package event

import (
	"io"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Handler is told when a socket may be read or written.
type Handler interface {
	// OnEvent is called with the socket's readiness: true means that Read (or Write) is worth a try, and stays true
	// until a call returned ErrAgain or less than it was asked for. Errors and the peer's FIN show as readable.
	OnEvent(readable, writable bool)
}

// Stream is a non-blocking byte stream: a Socket, or TLS on one.
type Stream interface {
	// Read gives ErrAgain when nothing is there, io.EOF after the peer's FIN.
	Read(p []byte) (int, error)
	// Write may take less than it is given; ErrAgain when it took nothing.
	Write(p []byte) (int, error)
	// Writev writes two buffers in one call.
	Writev(a, b []byte) (int, error)
	// CloseWrite sends FIN (close_notify and FIN on TLS) once all written bytes are out.
	CloseWrite() error
	// Close closes. Abort closes with a reset, so that the peer can't take what it got for complete.
	Close()
	Abort()
	// Again has the handler called again in this turn of the loop.
	Again()
	SetHandler(h Handler)
}

// Socket is a non-blocking socket registered with a dispatcher, edge-triggered: one registration for its whole life.
type Socket struct {
	d        *Dispatcher
	handler  Handler
	fd       int
	gen      int32
	readable bool
	writable bool
	hup      bool // the peer's FIN or an error is known: a short read is not the end of what can be read
	closed   bool
	queued   bool
	shared   bool // other descriptors of the same socket exist: closing this one doesn't take it out of epoll's set
	// BytesRead and BytesWritten count what passed, for the answer to "was any of it acknowledged?" (TCP_INFO).
	BytesRead, BytesWritten uint64
}

var _ Stream = (*Socket)(nil)

// NewSocket takes over a non-blocking descriptor. On error the descriptor is closed.
func (d *Dispatcher) NewSocket(fd int, h Handler) (*Socket, error) {
	s := &Socket{d: d, fd: fd, handler: h}
	if err := d.register(s); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

// FD is the descriptor, for socket options; -1 once closed.
func (s *Socket) FD() int { return s.fd }

// SetHandler changes who is told.
func (s *Socket) SetHandler(h Handler) { s.handler = h }

// Again implements Stream.
func (s *Socket) Again() {
	if !s.queued && !s.closed {
		s.queued = true
		s.d.ready = append(s.d.ready, s)
	}
}

// Read implements Stream.
func (s *Socket) Read(p []byte) (int, error) {
	if !s.readable {
		return 0, ErrAgain
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := rawRead(s.fd, p)
		switch {
		case err == unix.EAGAIN:
			s.readable = false
			return 0, ErrAgain
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		if n < len(p) && !s.hup {
			s.readable = false
		}
		s.BytesRead += uint64(n)
		return n, nil
	}
}

// Write implements Stream.
func (s *Socket) Write(p []byte) (int, error) {
	return s.wrote(len(p), func() (int, error) { return rawWrite(s.fd, p) })
}

// Writev implements Stream.
func (s *Socket) Writev(a, b []byte) (int, error) {
	if len(b) == 0 {
		return s.Write(a)
	}
	if len(a) == 0 {
		return s.Write(b)
	}
	return s.wrote(len(a)+len(b), func() (int, error) { return rawWritev(s.fd, a, b) })
}

func (s *Socket) wrote(want int, write func() (int, error)) (int, error) {
	if !s.writable {
		return 0, ErrAgain
	}
	for {
		n, err := write()
		switch {
		case err == unix.EAGAIN:
			s.writable = false
			return 0, ErrAgain
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		}
		if n < want {
			s.writable = false
		}
		s.BytesWritten += uint64(n)
		return n, nil
	}
}

// CloseWrite implements Stream.
func (s *Socket) CloseWrite() error { return unix.Shutdown(s.fd, unix.SHUT_WR) }

// Close implements Stream.
func (s *Socket) Close() {
	if s.closed {
		return
	}
	s.closed = true
	s.readable, s.writable = false, false
	s.d.unregister(s)
	unix.Close(s.fd)
	s.fd = -1 // the number may belong to another socket from now on
}

// Abort implements Stream.
func (s *Socket) Abort() {
	if !s.closed {
		_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
	}
	s.Close()
}

// Closed says whether Close or Abort was called.
func (s *Socket) Closed() bool { return s.closed }

// PeerClosed says whether the peer's FIN, or an error, is known to have arrived.
func (s *Socket) PeerClosed() bool { return s.hup }

// Error is the socket's pending error (SO_ERROR), nil when there is none.
func (s *Socket) Error() error {
	n, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if n != 0 {
		return syscall.Errno(n)
	}
	return nil
}

// LocalAddr and RemoteAddr give the socket's addresses; the zero AddrPort for a Unix socket.
func (s *Socket) LocalAddr() netip.AddrPort {
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return AddrPort(sa)
}

// RemoteAddr gives the peer's address.
func (s *Socket) RemoteAddr() netip.AddrPort {
	sa, err := unix.Getpeername(s.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return AddrPort(sa)
}

// AddrPort converts a socket address; IPv4-mapped addresses are given as IPv4.
func AddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr).Unmap()
		if ip.IsLinkLocalUnicast() && a.ZoneId != 0 {
			ip = ip.WithZone(zoneName(a.ZoneId))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}
