//go:build linux

package feature

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// plainUpstream makes the near endpoint a handler of the test's own.
func plainUpstream(t *testing.T, serve func(net.Conn)) (*world, *proxy) {
	t.Parallel()
	w := newWorld(t)
	w.east.n.listen(t, "10.1.0.1:80", serve)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	return w, w.proxyIn("us-east1")
}

// handler serves HTTP with Go's own server on each connection.
func handler(h http.HandlerFunc) func(net.Conn) {
	return func(c net.Conn) {
		l := &oneListener{c: make(chan net.Conn, 1), gone: make(chan struct{})}
		l.c <- &closing{Conn: c, gone: l.gone}
		_ = (&http.Server{Handler: h}).Serve(l)
	}
}

// oneListener gives one connection and ends with it.
type oneListener struct {
	c    chan net.Conn
	gone chan struct{}
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.c:
		return c, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }

type closing struct {
	net.Conn
	gone chan struct{}
}

func (c *closing) Close() error {
	err := c.Conn.Close()
	select {
	case <-c.gone:
	default:
		close(c.gone)
	}
	return err
}

// TestUpgrade passes a WebSocket's bytes both ways, after the endpoint's 101.
func TestUpgrade(t *testing.T) {
	w, _ := plainUpstream(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		req, err := http.ReadRequest(in)
		if err != nil || req.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(req.Header.Get("Connection"), "upgrade") {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst ")
		_, _ = io.Copy(c, in)
	})
	c, err := w.dial(forwardAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	limit(c)
	_, _ = io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: mydb.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v, %v", resp, err)
	}
	_, _ = io.WriteString(c, "\x81\x05\x00\xff bytes")
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(in); string(b) != "first \x81\x05\x00\xff bytes" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestPipelining answers in the order of the requests, which are sent at once.
func TestPipelining(t *testing.T) {
	w, _ := plainUpstream(t, handler(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, r.URL.Path+";") }))
	const n = 50
	var send, want strings.Builder
	for i := range n {
		last := ""
		if i == n-1 {
			last = "Connection: close\r\n"
		}
		fmt.Fprintf(&send, "GET /%d HTTP/1.1\r\nHost: mydb.com\r\n%s\r\n", i, last)
		fmt.Fprintf(&want, "/%d;", i)
	}
	in := bufio.NewReader(strings.NewReader(w.raw(forwardAddr, send.String())))
	var got strings.Builder
	for range n {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("after %q: %v", got.String(), err)
		}
		_, _ = io.Copy(&got, resp.Body)
	}
	if got.String() != want.String() {
		t.Errorf("got %q", got.String())
	}
}

// TestInterimResponses passes 100 and 103 on before the answer.
func TestInterimResponses(t *testing.T) {
	w, _ := plainUpstream(t, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		body, _ := io.ReadAll(req.Body)
		_, _ = fmt.Fprintf(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
	c, err := w.dial(forwardAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	limit(c)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: mydb.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("before the body: %q, %v", line, err)
	}
	_, _ = io.WriteString(c, "body")
	rest, err := io.ReadAll(in)
	if err != nil || !strings.Contains(string(rest), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(rest), "\r\n\r\nbody") {
		t.Errorf("got %q, %v", rest, err)
	}
}

// TestTrailers passes chunked bodies and their trailers both ways.
func TestTrailers(t *testing.T) {
	w, _ := plainUpstream(t, handler(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("Trailer", "X-Sum")
		_, _ = fmt.Fprintf(rw, "%s %s", body, r.Trailer.Get("X-In"))
		rw.(http.Flusher).Flush()
		rw.Header().Set("X-Sum", "42")
	}))
	got := w.raw(forwardAddr, "POST / HTTP/1.1\r\nHost: mydb.com\r\nConnection: close\r\nTE: trailers\r\nTrailer: X-In\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-In: in\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
	if err != nil {
		t.Fatalf("%q: %v", got, err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "abc in" || resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("got %q", got)
	}
}

// TestLargeBodies streams 64 MB each way while the other side reads late: what the proxy holds stays small.
func TestLargeBodies(t *testing.T) {
	const size = 64 << 20
	begin := make(chan struct{})
	w, p := plainUpstream(t, handler(func(rw http.ResponseWriter, r *http.Request) {
		<-begin
		sum := sha256.New()
		n, _ := io.Copy(sum, r.Body)
		rw.Header().Set("X-Sum", fmt.Sprintf("%d %x", n, sum.Sum(nil)))
		_, _ = io.Copy(rw, io.LimitReader(zeros{}, size))
	}))
	before := p.memory()
	c := w.client()
	sum := sha256.New()
	_, _ = io.Copy(sum, io.LimitReader(zeros{}, size))
	req, err := http.NewRequest("POST", mydb, io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan *http.Response, 1)
	go func() {
		resp, err := c.http.Do(req)
		if err != nil {
			t.Error(err)
		}
		answer <- resp
	}()
	connections := "cluster." + cluster80 + ".upstream_cx_active"
	await(t, "the request is on its way", func() bool { return p.stat(connections) == 1 })
	close(begin)
	resp := <-answer
	if resp == nil {
		return
	}
	defer resp.Body.Close()
	if want := fmt.Sprintf("%d %x", size, sum.Sum(nil)); resp.Header.Get("X-Sum") != want {
		t.Errorf("the endpoint got %s, want %s", resp.Header.Get("X-Sum"), want)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("%d bytes came back, %v", n, err)
	}
	if grown := p.memory() - before; grown > size/2 {
		t.Errorf("the proxy grew by %d kB", grown>>10)
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// memory is the most that the process ever held, in bytes.
func (p *process) memory() int {
	p.t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 1 && f[0] == "VmHWM:" {
			kb, _ := strconv.Atoi(f[1])
			return kb << 10
		}
	}
	p.t.Fatalf("no VmHWM in %s", b)
	return 0
}

// finUnderWay says whether the peer's kernel has still to acknowledge the FIN. Until then a request may cross it, and is reset
// before the proxy can know of the FIN: a reset proves nothing.
func finUnderWay(c *net.TCPConn) (underWay bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		const finWait1 = 4 // TCP_FIN_WAIT1 of the kernel's tcp_states.h
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		underWay = err == nil && info.State == finWait1
	})
	return underWay
}

// TestIdleConnectionClosedByEndpoint: endpoints close idle connections at any time; no request is lost by it, a POST
// neither, and none is delivered twice.
func TestIdleConnectionClosedByEndpoint(t *testing.T) {
	const each = 3 // requests on a connection
	var closed atomic.Int64
	var w *world
	w, p := plainUpstream(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for range each { // then it closes, without having said so
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			w.deliver(delivery{Site: eastName, Method: req.Method, ID: req.Header.Get("X-Request-Id")})
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		_ = c.(*net.TCPConn).CloseWrite()
		await(t, "the FIN has arrived", func() bool { return !finUnderWay(c.(*net.TCPConn)) })
		c.Close()
		closed.Add(1)
	})
	c := w.client()
	for i := range 100 * each {
		method := "GET"
		if i%2 == 1 {
			method = "POST"
		}
		if r := c.send(method); r.String() != "ok" {
			t.Errorf("request %d: %s: %v", i, method, r)
		}
		if i%each == each-1 { // what is sent while the endpoint closes may be lost there; this is about idle connections
			await(t, "the endpoint has closed", func() bool { return closed.Load() == int64(i/each+1) })
		}
	}
	if p.ejected(cluster80, w.east, 80) {
		t.Error("the endpoint was ejected")
	}
}
