package tlstransport

import (
	"crypto/tls"
	"errors"
	"io"
	"syscall"

	"detour.dev/detour/internal/dataplane/event"
)

// Stream is an established TLS connection on a dispatcher. It keeps event.Stream's contract: a Read that gives less
// than it was asked for has taken all there is, and the handler hears of readiness again.
//
// Readable does not promise application data: a session ticket makes a stream readable too, and Read says ErrAgain.
// At the end Read gives io.EOF after close_notify, and an *Error of KindEOF (io.ErrUnexpectedEOF) after a FIN without
// one: a body that lasts until the connection closes may have been cut off. To anything else both are a FIN.
type Stream struct {
	c       *conn
	tc      *tls.Conn
	handler event.Handler
	more    bool  // Read may find something without an event from the socket
	rerr    error // what every further Read gives
	closing bool  // CloseWrite was called; FIN follows the last byte
	closed  bool
}

var _ event.Stream = (*Stream)(nil)

// OnEvent implements event.Handler for the socket.
func (s *Stream) OnEvent(readable, writable bool) {
	writable = s.flush() && writable
	readable = readable || s.more
	if s.handler != nil && !s.closed && (readable || writable) {
		s.handler.OnEvent(readable, writable)
	}
}

// Read implements event.Stream.
func (s *Stream) Read(p []byte) (int, error) {
	if s.closed {
		return 0, event.ErrAgain
	}
	if s.rerr != nil {
		return 0, s.rerr
	}
	n := 0
	for n < len(p) && s.rerr == nil {
		m, err := s.tc.Read(p[n:])
		n += m
		if err == errWouldBlock {
			break
		}
		if err != nil {
			s.rerr = s.readError(err)
		}
	}
	s.flush() // an answer to a key update, an alert
	s.more = n == len(p) || s.rerr != nil
	switch {
	case n > 0 || len(p) == 0:
		if s.rerr != nil {
			s.Again() // a short read doesn't ask for another
		}
		return n, nil
	case s.rerr != nil:
		return 0, s.rerr
	}
	return 0, event.ErrAgain
}

// readError tells a close_notify from a bare FIN: crypto/tls takes both for io.EOF.
func (s *Stream) readError(err error) error {
	if err == io.EOF && !s.c.told {
		return io.EOF
	}
	var own *Error
	if errors.As(s.c.werr, &own) { // crypto/tls, unable to answer, is out of step: its own error tells nothing
		return own
	}
	return classify(err)
}

// Write implements event.Stream. What it takes is encrypted at once; while some of that waits for the socket,
// Write gives ErrAgain.
func (s *Stream) Write(p []byte) (int, error) { return s.Writev(p, nil) }

// Writev implements event.Stream. Two buffers that fit in one record are sent as one.
func (s *Stream) Writev(a, b []byte) (int, error) {
	if s.closed {
		return 0, event.ErrAgain
	}
	if s.closing {
		return 0, syscall.EPIPE
	}
	n := 0
	for len(a)+len(b) > 0 {
		if !s.c.held && !s.flush() {
			break
		}
		if s.c.werr != nil {
			return s.wrote(n, s.c.werr)
		}
		m, err := s.encrypt(a, b)
		n += m
		if err != nil {
			return s.wrote(n, err)
		}
		fromA := min(m, len(a))
		a, b = a[fromA:], b[m-fromA:]
		s.flush()
	}
	if n == 0 && len(a)+len(b) > 0 {
		return 0, event.ErrAgain
	}
	return n, nil
}

// wrote reports an error only where nothing was taken; it stays for the next call.
func (s *Stream) wrote(n int, err error) (int, error) {
	if n > 0 {
		return n, nil
	}
	return 0, classify(err)
}

const maxRecord = 16 << 10

// encrypt puts up to plainChunk bytes of a and b into the connection's buffer, which is empty.
func (s *Stream) encrypt(a, b []byte) (int, error) {
	if len(a) > 0 && len(b) > 0 && len(a)+len(b) <= maxRecord {
		joined := outPool.Get().(*[]byte)
		*joined = append(append(*joined, a...), b...)
		n, err := s.tc.Write(*joined)
		*joined = (*joined)[:0]
		outPool.Put(joined)
		return n, err
	}
	a = a[:min(len(a), plainChunk)]
	b = b[:min(len(b), plainChunk-len(a))]
	n := 0
	for _, p := range [2][]byte{a, b} {
		if len(p) == 0 {
			continue
		}
		m, err := s.tc.Write(p)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// flush sends what waits; FIN when CloseWrite asked for it. It reports whether nothing waits.
func (s *Stream) flush() bool {
	if s.c.out == nil {
		return true
	}
	if !s.c.flush() {
		return false
	}
	if s.closing && !s.closed {
		_ = s.c.sock.CloseWrite()
	}
	return true
}

// CloseWrite implements event.Stream: close_notify and FIN go out after the bytes that wait.
func (s *Stream) CloseWrite() error {
	if s.closed || s.closing {
		return nil
	}
	s.closing = true
	if err := s.tc.CloseWrite(); err != nil {
		return classify(err)
	}
	s.flush()
	return nil
}

// Close implements event.Stream. close_notify is sent; what the socket does not take at once is lost, so who cares
// about its last bytes calls CloseWrite and waits for the peer's end.
func (s *Stream) Close() {
	if s.closed {
		return
	}
	if !s.closing {
		_ = s.tc.CloseWrite() // fails only when the connection is broken already
		s.c.flush()
	}
	s.closed = true
	s.c.drop()
	s.c.sock.Close()
}

// Abort implements event.Stream.
func (s *Stream) Abort() {
	s.closed = true
	s.c.drop()
	s.c.sock.Abort()
}

// Again implements event.Stream.
func (s *Stream) Again() { s.c.sock.Again() }

// SetHandler implements event.Stream.
func (s *Stream) SetHandler(h event.Handler) { s.handler = h }

// Socket is the connection beneath, for its addresses, descriptor and counters. It must not be read or written. When
// Write takes something, all earlier bytes have gone to the socket, but for the end of the handshake, which goes with the
// stream's first bytes: BytesWritten before it, plus one for the SYN, is what Acked exceeds once any of it was acknowledged.
func (s *Stream) Socket() *event.Socket { return s.c.sock }

// IsTruncated says whether err, from Read, is a FIN that no close_notify announced.
func IsTruncated(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }
