package planetest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is one end of a connection in a test's hands.
type Peer struct {
	*net.TCPConn
	R *bufio.Reader
	t testing.TB
}

func newPeer(t testing.TB, c *net.TCPConn) *Peer {
	p := &Peer{TCPConn: c, R: bufio.NewReader(c), t: t}
	_ = c.SetDeadline(time.Now().Add(Patience))
	return p
}

// Send writes text. Where the other side has gone, reading tells.
func (p *Peer) Send(text string) { _, _ = io.WriteString(p.TCPConn, text) }

// Reset closes with RST.
func (p *Peer) Reset() {
	_ = p.SetLinger(0)
	_ = p.Close()
}

// Rest reads to the end and gives what came, and how it ended: nil for FIN.
func (p *Peer) Rest() (string, error) {
	b, err := io.ReadAll(p.R)
	return string(b), err
}

// Gone waits for the other side's end, whatever comes before it. It says whether that was a reset.
func (p *Peer) Gone() (reset bool) {
	p.t.Helper()
	_, err := io.Copy(io.Discard, p.R)
	if err != nil && strings.Contains(err.Error(), "timeout") {
		p.t.Error("the other side did not close")
	}
	return err != nil
}

// Client is a scripted client.
type Client struct{ *Peer }

func newClient(t testing.TB, c *net.TCPConn) *Client {
	t.Cleanup(func() { c.Close() })
	return &Client{newPeer(t, c)}
}

// Answer is a response, read to its end.
type Answer struct {
	*http.Response
	Text string
	Err  error // of reading the body
}

// Read reads one response to a request of that method; 1xx are skipped.
func (c *Client) Read(method string) Answer {
	c.t.Helper()
	for {
		a := c.ReadOne(method)
		if a.StatusCode/100 != 1 || a.StatusCode == 101 {
			return a
		}
	}
}

// ReadOne reads one response, 1xx too.
func (c *Client) ReadOne(method string) Answer {
	c.t.Helper()
	resp, err := http.ReadResponse(c.R, &http.Request{Method: method})
	if err != nil {
		c.t.Helper()
		c.t.Fatalf("no response: %v", err)
	}
	if resp.StatusCode == 101 {
		return Answer{Response: resp}
	}
	b, err := io.ReadAll(resp.Body)
	return Answer{resp, string(b), err}
}

// Do sends a request for svc.test and reads its answer.
func (c *Client) Do(method, body string) Answer {
	c.t.Helper()
	c.Send(Request(method, "/", body))
	return c.Read(method)
}

// Request writes a request for svc.test; a body goes with its length.
func Request(method, path, body string) string {
	b := new(bytes.Buffer)
	b.WriteString(method + " " + path + " HTTP/1.1\r\nHost: svc.test\r\n")
	if body != "" || method == "POST" || method == "PUT" {
		b.WriteString("Content-Length: " + itoa(len(body)) + "\r\n")
	}
	return b.String() + "\r\n" + body
}

// Response writes a response with that body.
func Response(status int, body string) string {
	return "HTTP/1.1 " + itoa(status) + " " + http.StatusText(status) + "\r\nContent-Length: " + itoa(len(body)) + "\r\n\r\n" + body
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// Upstream is an endpoint that follows a script.
type Upstream struct {
	Addr netip.AddrPort

	t     testing.TB
	l     *net.TCPListener
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[*net.TCPConn]bool // guarded by mu
	total int                   // guarded by mu
	got   []string              // guarded by mu: "METHOD PATH BODY" of each request read whole
}

// Conn is a connection to an Upstream. Nth counts the endpoint's connections from 1.
type Conn struct {
	*Peer
	Nth int
	u   *Upstream
}

// NewUpstream listens and has script called for each connection, which is closed after it.
func NewUpstream(t testing.TB, script func(c *Conn)) *Upstream {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{Addr: l.Addr().(*net.TCPAddr).AddrPort(), t: t, l: l, conns: map[*net.TCPConn]bool{}}
	u.wg.Add(1)
	go u.accept(script)
	t.Cleanup(func() { u.Kill(); u.wg.Wait() })
	return u
}

func (u *Upstream) accept(script func(c *Conn)) {
	defer u.wg.Done()
	for {
		c, err := u.l.AcceptTCP()
		if err != nil {
			return
		}
		u.mu.Lock()
		u.total++
		u.conns[c] = true
		n := u.total
		u.mu.Unlock()
		u.wg.Add(1)
		go func() {
			defer u.wg.Done()
			script(&Conn{newPeer(u.t, c), n, u})
			_ = c.Close()
			u.mu.Lock()
			defer u.mu.Unlock()
			delete(u.conns, c)
		}()
	}
}

// Refuse stops listening: connections are refused from now on, open ones stay.
func (u *Upstream) Refuse() { _ = u.l.Close() }

// Kill stops listening and closes all connections.
func (u *Upstream) Kill() {
	u.Refuse()
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.conns {
		_ = c.Close()
	}
}

// Conns is the number of connections accepted so far.
func (u *Upstream) Conns() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.total
}

// Got gives the requests that were read whole.
func (u *Upstream) Got() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.got...)
}

// Request reads a request to its end; nil when none comes. It is noted for Got.
func (c *Conn) Request() *http.Request {
	r, err := http.ReadRequest(c.R)
	if err != nil {
		return nil
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil
	}
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	text := string(b)
	if len(text) > 64 {
		text = text[:64] + "… " + itoa(len(b))
	}
	c.u.got = append(c.u.got, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+text))
	return r
}

// Last is what Got has of the connection's last request.
func (c *Conn) Last() string {
	got := c.u.Got()
	return got[len(got)-1]
}

// Served is how many requests the endpoint has read.
func (c *Conn) Served() int { return len(c.u.Got()) }

// Serve answers every request with 200 and the name.
func Serve(name string) func(*Conn) {
	return func(c *Conn) {
		for c.Request() != nil {
			c.Send(Response(200, name))
		}
	}
}

// Silent gives the address of an endpoint whose SYNs get no answer: its backlog is full.
func Silent(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, addr := listenFD(t, 0)
	t.Cleanup(func() { _ = unix.Close(fd) })
	for range 8 {
		c, err := net.DialTimeout("tcp", addr.String(), 50*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the backlog does not fill up")
	panic("unreachable")
}

// Refused gives an address where nobody listens.
func Refused(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, addr := listenFD(t, 1)
	_ = unix.Close(fd)
	return addr
}
