//go:build linux

package feature

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
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

	mu       sync.Mutex
	notes    []string
	arrivals []arrival
	seen     map[string]int // requests by endpoint, for behaviours that change
	conn     net.Conn       // the client's kept connection
	connTo   string
	reader   *bufio.Reader
	wg       sync.WaitGroup
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
	// raw serves connections that are not HTTP.
	raw func(net.Conn)
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
	a.w.app.listen(a.t, addr, func(c net.Conn) {
		limit(c)
		if u.raw != nil {
			u.raw(c)
			return
		}
		if u.tls != nil {
			tc := tls.Server(c, u.tls)
			if err := tc.Handshake(); err != nil {
				return
			}
			c = tc
		}
		a.serveConn(addr, u, c)
	})
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
			body, err = io.ReadAll(io.LimitReader(newChunks(br), 1<<20))
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
	a.mu.Unlock()
	if u.reset != nil && u.reset(n) {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return false
	}
	if u.wait > 0 && !a.pause(u.wait) {
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

// dropped are fields that say nothing of what is compared: hop by hop, or the time of day.
var dropped = map[string]bool{"connection": true, "keep-alive": true, "date": true, "proxy-connection": true}

// requestText is a request with its field names in lower case, sorted by name.
func requestText(head string, body []byte) string {
	lines := strings.Split(strings.TrimRight(head, "\r\n"), "\r\n")
	return strings.TrimSuffix(lines[0], " HTTP/1.1") + fieldText(lines[1:]) + bodyText(body)
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

// call is one request of the client.
type call struct {
	method string // GET if empty
	url    string // http://host[:port]/path; the host is declared, or at names where it is
	at     string // IP:PORT to connect to, where that is not the host's own address
	header []string
	body   string
	fresh  bool // on a new connection
}

// get asks for a URL; header lines are "name: value".
func (a *actor) get(url string, header ...string) { a.do(call{url: url, header: header}) }

// do sends a request and notes the answer, then what the upstreams received, in order of arrival.
func (a *actor) do(c call) {
	a.t.Helper()
	answer, _, err := a.send(c)
	if err != nil {
		answer = "no answer"
		a.t.Logf("%s: %s: %v", a.engine, c.url, err)
	}
	a.note("%s %s -> %s", method(c), c.url, answer)
	a.noteArrivals("  ")
}

func method(c call) string {
	if c.method == "" {
		return "GET"
	}
	return c.method
}

// noteArrivals notes what the upstreams received since the last time.
func (a *actor) noteArrivals(indent string) {
	for _, r := range a.takeArrivals() {
		a.note("%s%s got %s", indent, r.endpoint, r.text)
	}
}

func (a *actor) takeArrivals() []arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.arrivals
	a.arrivals = nil
	return out
}

// awaitArrivals waits until n requests have arrived that nobody has noted yet.
func (a *actor) awaitArrivals(n int) {
	a.t.Helper()
	await(a.t, fmt.Sprintf("%d requests arrive", n), func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.arrivals) >= n
	})
}

// spread sends n requests, each made by f, and notes the answers' bodies with their shares in percent.
func (a *actor) spread(what string, n int, f func(i int) call) {
	a.t.Helper()
	count := map[string]int{}
	for i := range n {
		answer, body, err := a.send(f(i))
		if err != nil {
			a.t.Fatalf("%s: request %d: %v", a.engine, i, err)
		}
		if !strings.HasPrefix(answer, "200") {
			body, _, _ = strings.Cut(answer, " ")
		}
		count[body]++
	}
	a.takeArrivals()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%s=%d", k, (count[k]*100+n/2)/n))
	}
	a.note(distribution+"%s %s", what, strings.Join(out, " "))
}

// send gives the answer as text, and its body.
func (a *actor) send(c call) (text, body string, err error) {
	a.t.Helper()
	host, path, ok := strings.Cut(strings.TrimPrefix(c.url, "http://"), "/")
	if !ok {
		path = ""
	}
	if err := a.connect(a.address(host, c.at), c.fresh); err != nil {
		return "", "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s /%s HTTP/1.1\r\nHost: %s\r\n", method(c), path, host)
	for _, h := range c.header {
		out.WriteString(h + "\r\n")
	}
	if c.body != "" {
		fmt.Fprintf(&out, "Content-Length: %d\r\n", len(c.body))
	}
	out.WriteString("\r\n" + c.body)
	if _, err := io.WriteString(a.conn, out.String()); err != nil {
		a.hangUp()
		return "", "", err
	}
	text, body, err = a.receive(method(c))
	if err != nil {
		a.hangUp()
	}
	return text, body, err
}

// receive reads one answer.
func (a *actor) receive(method string) (text, body string, err error) {
	tp := textproto.NewReader(a.reader)
	var lines []string
	for {
		l, err := tp.ReadLine()
		if err != nil {
			return "", "", err
		}
		if l == "" {
			break
		}
		lines = append(lines, l)
	}
	if len(lines) == 0 {
		return "", "", errors.New("an empty head")
	}
	head := strings.Join(lines, "\r\n") + "\r\n\r\n"
	r, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(head), a.reader)), &http.Request{Method: method})
	if err != nil {
		return "", "", err
	}
	// ReadResponse's own reader would keep bytes of the next answer; none follows, since requests are not pipelined.
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return "", "", err
	}
	if r.Close {
		a.hangUp()
	}
	_, status, _ := strings.Cut(lines[0], " ")
	status, _, _ = strings.Cut(status, " ")
	return status + fieldText(lines[1:]) + bodyText(b), string(b), nil
}

// address is where a client connects to reach a host.
func (a *actor) address(host, at string) string {
	if at != "" {
		return at
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, "80"
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return net.JoinHostPort(name, port)
	}
	addr := a.hosts[name]
	if addr == "" {
		a.t.Fatalf("%s has no address in the configuration: give the call one", name)
	}
	return net.JoinHostPort(addr, port)
}

// connect keeps one connection to the address it was asked for last.
func (a *actor) connect(addr string, fresh bool) error {
	if a.conn != nil && a.connTo == addr && !fresh {
		return nil
	}
	a.hangUp()
	c, err := a.dial(addr)
	if err != nil {
		return err
	}
	a.conn, a.connTo, a.reader = c, addr, bufio.NewReader(c)
	return nil
}

// dial connects as a client whose connections the engine gets.
func (a *actor) dial(addr string) (c net.Conn, err error) {
	err = a.w.app.do(func() (err error) {
		d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddr)}}
		c, err = d.Dial("tcp", addr)
		return err
	})
	if err == nil {
		limit(c)
	}
	return c, err
}

func (a *actor) hangUp() {
	if a.conn != nil {
		a.conn.Close()
		a.conn, a.connTo = nil, ""
	}
}

func (a *actor) close() {
	a.hangUp()
	a.wg.Wait()
}

// exchange sends bytes on a connection of its own, and notes all that comes back until the other side is done, or an
// error that is not its end.
func (a *actor) exchange(what, addr, send string) {
	a.t.Helper()
	c, err := a.dial(addr)
	if err != nil {
		a.note("%s -> not connected", what)
		return
	}
	defer c.Close()
	if _, err := io.WriteString(c, send); err != nil {
		a.note("%s -> not sent", what)
		return
	}
	_ = c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil {
		a.note("%s -> %q and an error", what, b)
		return
	}
	a.note("%s -> %q", what, b)
}

// handshake speaks TLS with a server name, sends bytes and notes who answered with what.
func (a *actor) handshake(what, addr, sni, send string) {
	a.t.Helper()
	c, err := a.dial(addr)
	if err != nil {
		a.note("%s -> not connected", what)
		return
	}
	defer c.Close()
	tc := tls.Client(c, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		a.note("%s -> no handshake", what)
		return
	}
	_, _ = io.WriteString(tc, send)
	_ = tc.CloseWrite()
	b, _ := io.ReadAll(tc)
	a.note("%s -> certificate of %v, %q", what, tc.ConnectionState().PeerCertificates[0].DNSNames, b)
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
