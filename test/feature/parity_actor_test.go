//go:build linux

package feature

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// actor plays a parity case against one engine: it is the client and all upstreams, and notes what both see.
type actor struct {
	w      *world
	t      *testing.T
	hosts  map[string]string // addresses of the declared hosts
	engine string            // "envoy" or "detour"
	proxy  *proxy            // detour's; nil for Envoy
	ready  time.Time         // when the engine was

	mu       sync.Mutex
	notes    []string
	arrivals []arrival
	seen     map[string]int // requests by endpoint, for behaviours that change
	own      caller         // the client that sends one request after the other
	wg       sync.WaitGroup // of requests under way
	held     chan struct{}  // closed when answers are held no longer
}

// arrival is one request as an upstream received it.
type arrival struct {
	endpoint string
	text     string
}

// stub is what an endpoint does. The zero value answers 200 with its own address as body.
type stub struct {
	// status gives the answer to the endpoint's n-th request, from 1; nil or 0: 200.
	status func(n int, r *http.Request) int
	header map[string]string // of every answer
	body   string            // "" is the endpoint's address
	// wait is how long the answer takes.
	wait time.Duration
	// reset resets the connection of the n-th request instead of an answer.
	reset func(n int) bool
	// tls, if not nil, is spoken.
	tls *tls.Config
	// greet notes what the client of a TLS connection asked for and showed.
	greet bool
	// hold says that the answer waits until the script releases it.
	hold func(n int) bool
	// raw serves connections that are not HTTP.
	raw func(a *actor, addr string, c net.Conn)
	// refused: nothing listens.
	refused bool
	// ignore says that what arrives is not noted.
	ignore bool
}

// fails answers the first n requests of an endpoint with a status.
func fails(n, status int) func(int, *http.Request) int {
	return func(i int, _ *http.Request) int {
		if i <= n {
			return status
		}
		return 200
	}
}

// always answers every request with a status.
func always(status int) func(int, *http.Request) int {
	return func(int, *http.Request) int { return status }
}

// serve begins to serve at an endpoint; addr is IP:PORT or a path of a unix socket.
func (a *actor) serve(addr string, u stub) {
	if u.refused {
		return
	}
	a.w.app.listen(a.t, strings.ReplaceAll(addr, "SCRATCH", a.w.scratch), func(c net.Conn) {
		limit(c)
		if u.raw != nil {
			u.raw(a, addr, c)
			return
		}
		if u.tls != nil {
			tc := tls.Server(c, u.tls)
			if err := tc.Handshake(); err != nil {
				return
			}
			if u.greet {
				a.greeted(addr, tc.ConnectionState())
			}
			c = tc
		}
		a.serveConn(addr, u, c)
	})
}

func (a *actor) greeted(addr string, s tls.ConnectionState) {
	who := "nobody"
	if len(s.PeerCertificates) > 0 {
		who = fmt.Sprint(s.PeerCertificates[0].DNSNames)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivals = append(a.arrivals, arrival{addr, fmt.Sprintf("a TLS connection for %q from %s, protocol %q", s.ServerName, who, s.NegotiatedProtocol)})
}

func (a *actor) serveConn(addr string, u stub, c net.Conn) {
	br := bufio.NewReader(c)
	for {
		var head bytes.Buffer
		r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(oneByte{br}, &head)))
		if err != nil {
			return
		}
		if r.ContentLength > 0 {
			r.Body = io.NopCloser(io.LimitReader(br, r.ContentLength))
		}
		var body []byte
		if len(r.TransferEncoding) > 0 {
			body, err = io.ReadAll(io.LimitReader(newChunks(br), 1<<22))
		} else if r.ContentLength > 0 {
			body, err = io.ReadAll(r.Body)
		}
		if err != nil || !a.answer(addr, u, c, r, requestText(head.String(), body)) {
			return
		}
	}
}

// oneByte reads no further than it must, so that what follows a head stays in the reader.
type oneByte struct{ br *bufio.Reader }

func (o oneByte) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c, err := o.br.ReadByte()
	if err != nil {
		return 0, err
	}
	b[0] = c
	return 1, nil
}

// answer notes a request and answers it; false ends the connection.
func (a *actor) answer(addr string, u stub, c net.Conn, r *http.Request, text string) bool {
	a.mu.Lock()
	if a.seen == nil {
		a.seen = map[string]int{}
	}
	a.seen[addr]++
	n := a.seen[addr]
	if !u.ignore {
		a.arrivals = append(a.arrivals, arrival{addr, text})
	}
	held := a.held
	a.mu.Unlock()
	if u.reset != nil && u.reset(n) {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return false
	}
	if u.wait > 0 && !a.pause(u.wait) || u.hold != nil && u.hold(n) && !a.await(held) {
		return false
	}
	status := 200
	if u.status != nil {
		if s := u.status(n, r); s != 0 {
			status = s
		}
	}
	body := u.body
	if body == "" {
		body = addr
	}
	var out strings.Builder
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for _, k := range slices.Sorted(maps.Keys(u.header)) {
		fmt.Fprintf(&out, "%s: %s\r\n", k, u.header[k])
	}
	fmt.Fprintf(&out, "content-length: %d\r\n\r\n", len(body))
	if r.Method != http.MethodHead {
		out.WriteString(body)
	}
	_, err := io.WriteString(c, out.String())
	return err == nil
}

// pause waits; false when the test has ended meanwhile.
func (a *actor) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-a.t.Context().Done():
		return false
	}
}

// await waits for a release; false when the test has ended meanwhile.
func (a *actor) await(held chan struct{}) bool {
	select {
	case <-held:
		return true
	case <-a.t.Context().Done():
		return false
	}
}

// release lets all held answers go, and those of requests to come too.
func (a *actor) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.held)
}

// holdAgain makes answers of requests to come wait again.
func (a *actor) holdAgain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = make(chan struct{})
}

// dropped are fields that say nothing of what is compared: hop by hop, or the time of day.
var dropped = map[string]bool{"connection": true, "keep-alive": true, "date": true, "proxy-connection": true}

// requestText is a request with its field names in lower case, sorted by name.
func requestText(head string, body []byte) string {
	lines := strings.Split(strings.TrimRight(head, "\r\n"), "\r\n")
	// A length of 0 that Envoy adds for some methods, a body or none, says nothing.
	fields := strings.Replace(fieldText(lines[1:]), " | content-length: 0", "", 1)
	return strings.TrimSuffix(lines[0], " HTTP/1.1") + fields + bodyText(body)
}

func fieldText(lines []string) string {
	var fields []string
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		if name = strings.ToLower(name); !dropped[name] {
			fields = append(fields, name+": "+strings.TrimSpace(value))
		}
	}
	slices.SortStableFunc(fields, func(a, b string) int {
		x, _, _ := strings.Cut(a, ":")
		y, _, _ := strings.Cut(b, ":")
		return strings.Compare(x, y)
	})
	if len(fields) == 0 {
		return ""
	}
	return " | " + strings.Join(fields, " | ")
}

func bodyText(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > 200 {
		return fmt.Sprintf(" | body of %d bytes", len(b))
	}
	return fmt.Sprintf(" | body %q", b)
}

// newChunks reads a chunked body.
func newChunks(br *bufio.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), oneByte{br})))
		if err == nil {
			_, err = io.Copy(pw, r.Body)
		}
		pw.CloseWithError(err)
	}()
	return pr
}
