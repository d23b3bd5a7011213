package tlstransport

import (
	"io"
	"net"
	"sync"
	"time"

	"detour.dev/detour/internal/dataplane/event"
)

const (
	// plainChunk is how much plaintext is encrypted before the socket is asked to take it: four records.
	plainChunk = 4 * 16 << 10
	// outSize holds plainChunk encrypted (22 to 64 bytes more a record), and a few key updates and alerts.
	outSize = plainChunk + 1<<10
	// maxOut is what may wait to be sent. Only a peer that asks for key updates without reading gets there.
	maxOut = outSize + 4<<10
	// maxHeld is how much of the handshake's end may wait for the first write of the stream: a Finished does, a client's
	// certificate goes ahead.
	maxHeld = 1 << 10
	// inSize is what the loop reads ahead of the handshake.
	inSize = 8 << 10
)

var (
	inPool  = sync.Pool{New: func() any { return new([inSize]byte) }}
	outPool = sync.Pool{New: func() any { b := make([]byte, 0, outSize); return &b }}
)

// conn is the net.Conn beneath crypto/tls. During the handshake crypto/tls blocks in it, on the handshake's
// goroutine, while the loop moves bytes between its buffers and the socket. Afterwards (direct) the loop calls
// crypto/tls itself: Read asks the socket and says errWouldBlock, Write only fills the buffer, flush empties it.
//
// mu guards everything below it while direct is false; then the loop alone has the connection.
type conn struct {
	d    *event.Dispatcher
	sock *event.Socket
	pump func()        // posted to the loop when the goroutine left it something to do
	wake chan struct{} // holds one token when the goroutine should look again

	direct bool // set by the loop once the goroutine has ended
	held   bool // loop only: what waits is the end of the handshake, which was never offered to the socket
	told   bool // loop only: crypto/tls has been told rerr

	mu      sync.Mutex
	in      *[inSize]byte
	inR     int // in[inR:inW] is unread
	inW     int
	out     *[]byte // nil when empty
	outR    int     // (*out)[outR:] is unsent
	rerr    error   // what ended reading: io.EOF or the socket's error
	werr    error   // what ended writing
	noticed bool    // pump has been posted and has not run
	closed  bool
}

func newConn(d *event.Dispatcher, sock *event.Socket) *conn {
	return &conn{d: d, sock: sock, wake: make(chan struct{}, 1), in: inPool.Get().(*[inSize]byte)}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if c.direct {
		return c.readDirect(p)
	}
	for {
		c.mu.Lock()
		n, err, done := c.take(p)
		if !done && c.pending() > 0 {
			c.notice() // what was written waits for the peer's answer, so it is whole
		}
		c.mu.Unlock()
		if done {
			return n, err
		}
		if err := c.wait(); err != nil {
			return 0, err
		}
	}
}

// take gives what was read ahead. Called with mu held.
func (c *conn) take(p []byte) (n int, err error, done bool) {
	switch {
	case c.closed:
		return 0, net.ErrClosed, true
	case c.inR < c.inW:
		full := c.inW == inSize
		n = copy(p, c.in[c.inR:c.inW])
		c.inR += n
		if full && c.rerr == nil {
			c.notice()
		}
		return n, nil, true
	case c.rerr != nil:
		return 0, c.rerr, true
	}
	return 0, nil, false
}

func (c *conn) readDirect(p []byte) (int, error) {
	if c.in != nil {
		if c.inR < c.inW {
			n := copy(p, c.in[c.inR:c.inW])
			c.inR += n
			return n, nil
		}
		inPool.Put(c.in)
		c.in, c.inR, c.inW = nil, 0, 0
	}
	if c.rerr == nil {
		n, err := c.sock.Read(p)
		switch err {
		case nil:
			return n, nil
		case event.ErrAgain:
			return 0, errWouldBlock
		}
		c.rerr = socketError(err)
	}
	c.told = true
	return 0, c.rerr
}

func socketError(err error) error {
	if err == io.EOF {
		return err
	}
	return connError{err}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if c.direct {
		return c.writeDirect(p)
	}
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return 0, net.ErrClosed
		}
		if c.pending() < outSize {
			c.push(p) // sent when the goroutine waits, or with the first bytes of the stream
			c.mu.Unlock()
			return len(p), nil
		}
		c.notice()
		c.mu.Unlock()
		if err := c.wait(); err != nil {
			return 0, err
		}
	}
}

func (c *conn) writeDirect(p []byte) (int, error) {
	if c.werr != nil {
		return 0, c.werr
	}
	if c.pending()+len(p) > maxOut {
		c.werr = &Error{Kind: KindProtocol, Err: errNotReading}
		return 0, c.werr
	}
	c.push(p)
	return len(p), nil
}

func (c *conn) push(p []byte) {
	if c.out == nil {
		c.out = outPool.Get().(*[]byte)
	}
	*c.out = append(*c.out, p...)
}

func (c *conn) pending() int {
	if c.out == nil {
		return 0
	}
	return len(*c.out) - c.outR
}

// notice has the loop run pump. Called with mu held, by the goroutine.
func (c *conn) notice() {
	if !c.noticed {
		c.noticed = true
		c.d.Post(c.pump)
	}
}

// wait blocks the handshake's goroutine until the loop has done something for it.
func (c *conn) wait() error {
	select {
	case <-c.wake:
		return nil
	case <-c.d.Done():
		return net.ErrClosed
	}
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
		c.d.Yield()
	default:
	}
}

// exchange moves bytes both ways during the handshake. A failed write is not told to crypto/tls: the reason, an
// alert perhaps, is what there is to read.
func (c *conn) exchange() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noticed = false
	c.flush()
	if c.inR == c.inW {
		c.inR, c.inW = 0, 0
	}
	got := false
	for c.rerr == nil && c.inW < inSize {
		n, err := c.sock.Read(c.in[c.inW:])
		if err == event.ErrAgain {
			break
		}
		got = true
		c.inW += n
		if err != nil {
			c.rerr = socketError(err)
		}
	}
	if got || c.pending() == 0 {
		c.signal()
	}
}

// flush sends what waits, as far as the socket takes it, and reports whether nothing waits any more.
func (c *conn) flush() bool {
	c.held = false
	for c.out != nil {
		if c.werr != nil {
			c.release()
			return true
		}
		n, err := c.sock.Write((*c.out)[c.outR:])
		if err == event.ErrAgain {
			return false
		}
		if err != nil {
			c.werr = connError{err}
			continue
		}
		c.outR += n
		if c.outR == len(*c.out) {
			c.release()
		}
	}
	return true
}

// release gives the send buffer back.
func (c *conn) release() {
	if c.out == nil {
		return
	}
	if cap(*c.out) <= 2*outSize {
		*c.out = (*c.out)[:0]
		outPool.Put(c.out)
	}
	c.out, c.outR = nil, 0
}

// drop gives both buffers back. Only for the loop, after the handshake.
func (c *conn) drop() {
	c.release()
	if c.in != nil {
		inPool.Put(c.in)
		c.in = nil
	}
}

// shut makes the goroutine's calls fail from now on.
func (c *conn) shut() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
}

// Close implements net.Conn. crypto/tls is never closed; the stream closes the socket.
func (c *conn) Close() error { return nil }

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return anyAddr }

// RemoteAddr implements net.Conn. Session keys don't depend on it (sessionCache).
func (c *conn) RemoteAddr() net.Addr { return anyAddr }

// SetDeadline implements net.Conn: deadlines are the caller's timers, and Handshake.Cancel.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

var anyAddr = &net.TCPAddr{}
