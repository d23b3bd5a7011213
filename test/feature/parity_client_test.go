//go:build linux

package feature

import (
	"bufio"
	"cmp"
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
	"strconv"
	"strings"
	"time"
)

// call is one request of the client.
type call struct {
	method string // GET if empty
	url    string // http://host[:port]/path; the host is declared, or at names where it is
	at     string // IP:PORT to connect to, where that is not the host's own address
	target string // in place of the URL's path
	host   string // Host, in place of the URL's
	from   string // the client's address, of 10.255.0.0/16; clientAddr if empty
	header []string
	body   string
	chunks bool // the body goes in chunks
	fresh  bool // on a new connection
}

// caller is one connection of the application at a time.
type caller struct {
	a      *actor
	conn   net.Conn
	to     string // where conn leads, and from where
	reader *bufio.Reader
}

// get asks for a URL; header lines are "name: value".
func (a *actor) get(url string, header ...string) { a.do(call{url: url, header: header}) }

// gets asks for several URLs.
func (a *actor) gets(urls ...string) {
	for _, u := range urls {
		a.get(u)
	}
}

// do sends a request and notes the answer, then what the upstreams received, in order of arrival.
func (a *actor) do(c call) {
	a.t.Helper()
	a.noteAnswer(c, a.ask(&a.own, c))
	a.noteArrivals("  ")
}

// ask gives the answer to a request as text.
func (a *actor) ask(cl *caller, c call) string {
	answer, _, err := cl.send(c)
	if err != nil {
		a.t.Logf("%s: %s: %v", a.engine, c.url, err)
		return "no answer"
	}
	return answer
}

func (a *actor) noteAnswer(c call, answer string) {
	// What OpenSSL calls an error is no business of ours.
	answer, _, _ = strings.Cut(answer, ", transport failure reason:")
	a.note("%s %s -> %s", c.verb(), c.url, answer)
}

// pending is a request under way.
type underWay struct {
	c      call
	answer chan string
}

// start sends a request on a connection of its own; finish notes its answer.
func (a *actor) start(c call) *underWay {
	p := &underWay{c: c, answer: make(chan string, 1)}
	a.wg.Go(func() {
		cl := caller{a: a}
		defer cl.hangUp()
		p.answer <- a.ask(&cl, c)
	})
	return p
}

func (a *actor) finish(ps ...*underWay) {
	for _, p := range ps {
		a.noteAnswer(p.c, <-p.answer)
	}
}

// took notes whether the answer to a request came between two points of time.
func (a *actor) took(c call, least, most time.Duration) {
	a.t.Helper()
	begin := time.Now()
	a.do(c)
	d := time.Since(begin)
	switch {
	case d < least-5*time.Millisecond: // engines count from the turn of their loop, in whole milliseconds
		a.note("  after %v, too early", d)
	case d > most:
		a.note("  after %v, too late", d)
	}
}

func (c call) verb() string { return cmp.Or(c.method, "GET") }

// noteArrivals notes what the upstreams received since the last time.
func (a *actor) noteArrivals(indent string) {
	for _, r := range a.takeArrivals() {
		a.note("%s%s got %s", indent, r.endpoint, r.text)
	}
}

// noteArrivalsSorted is noteArrivals where the order is a matter of chance.
func (a *actor) noteArrivalsSorted(indent string) {
	rs := a.takeArrivals()
	slices.SortFunc(rs, func(x, y arrival) int {
		return cmp.Or(strings.Compare(x.endpoint, y.endpoint), strings.Compare(x.text, y.text))
	})
	for _, r := range rs {
		a.note("%s%s got %s", indent, r.endpoint, r.text)
	}
}

// withoutFields takes fields out of the requests that nobody has noted yet.
func (a *actor) withoutFields(fields ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.arrivals {
		for _, f := range fields {
			a.arrivals[i].text = strings.Replace(a.arrivals[i].text, f, "", 1)
		}
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
		answer, body, err := a.own.send(f(i))
		if err != nil {
			a.t.Fatalf("%s: request %d: %v", a.engine, i, err)
		}
		if !strings.HasPrefix(answer, "200") {
			body, _, _ = strings.Cut(answer, " ")
		}
		count[body]++
	}
	a.takeArrivals()
	a.noteShares(what, count, n)
}

// noteShares notes counts as shares of n in percent.
func (a *actor) noteShares(what string, count map[string]int, n int) {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%s=%d", k, (count[k]*100+n/2)/n))
	}
	a.note(distribution+"%s %s", what, strings.Join(out, " "))
}

// same is n requests alike.
func same(c call) func(int) call { return func(int) call { return c } }

// send gives the answer as text, and its body.
func (cl *caller) send(c call) (text, body string, err error) {
	host, path, _ := strings.Cut(strings.TrimPrefix(c.url, "http://"), "/")
	if err := cl.connect(c.from, cl.a.address(host, c.at), c.fresh); err != nil {
		return "", "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: %s\r\n", c.verb(), cmp.Or(c.target, "/"+path), cmp.Or(c.host, host))
	for _, h := range c.header {
		out.WriteString(h + "\r\n")
	}
	switch {
	case c.chunks:
		fmt.Fprintf(&out, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(c.body), c.body)
	case c.body != "":
		fmt.Fprintf(&out, "Content-Length: %d\r\n\r\n%s", len(c.body), c.body)
	default:
		out.WriteString("\r\n")
	}
	if _, err := io.WriteString(cl.conn, out.String()); err != nil {
		cl.hangUp()
		return "", "", err
	}
	text, body, err = cl.receive(c.verb())
	if err != nil {
		cl.hangUp()
	}
	return text, body, err
}

// receive reads one answer.
func (cl *caller) receive(method string) (text, body string, err error) {
	tp := textproto.NewReader(cl.reader)
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
	r, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(head), cl.reader)), &http.Request{Method: method})
	if err != nil {
		return "", "", err
	}
	// ReadResponse's own reader would keep bytes of the next answer; none follows, since requests are not pipelined.
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return "", "", err
	}
	if r.Close {
		cl.hangUp()
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
	addr := a.hosts[strings.ToLower(name)]
	if addr == "" {
		a.t.Errorf("%s has no address in the configuration: give the call one", name)
		return "127.0.0.1:1"
	}
	return net.JoinHostPort(addr, port)
}

// connect keeps one connection to the address it was asked for last.
func (cl *caller) connect(from, addr string, fresh bool) error {
	to := from + " " + addr
	if cl.conn != nil && cl.to == to && !fresh {
		return nil
	}
	cl.hangUp()
	c, err := cl.a.dialFrom(from, addr)
	if err != nil {
		return err
	}
	cl.conn, cl.to, cl.reader = c, to, bufio.NewReader(c)
	return nil
}

func (cl *caller) hangUp() {
	if cl.conn != nil {
		cl.conn.Close()
		cl.conn, cl.to = nil, ""
	}
}

// dial connects as a client whose connections the engine gets; to loopback and to the path of a Unix socket, as one whose
// connections are not redirected.
func (a *actor) dial(addr string) (net.Conn, error) { return a.dialFrom("", addr) }

func (a *actor) dialFrom(from, addr string) (c net.Conn, err error) {
	network, from := "tcp", cmp.Or(from, clientAddr)
	if strings.HasPrefix(addr, "127.") {
		from = "127.0.0.1"
	}
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	if !strings.Contains(addr, ":") {
		network, d.LocalAddr = "unix", nil
	}
	err = a.w.app.do(func() (err error) {
		c, err = d.Dial(network, strings.ReplaceAll(addr, "SCRATCH", a.w.scratch))
		return err
	})
	if err == nil {
		limit(c)
	}
	return c, err
}

func (a *actor) close() {
	a.own.hangUp()
	a.wg.Wait()
}

// exchange sends bytes on a connection of its own, and notes all that comes back until the other side is done, or an
// error that is not its end. The client's port, which is chance, is noted as PORT.
func (a *actor) exchange(what, addr, send string) {
	a.t.Helper()
	a.note("%s -> %s", what, a.converse(addr, send))
}

// converse is what exchange notes.
func (a *actor) converse(addr, send string) string {
	// A reset may come before connect(2) returns, or later: which is no difference between engines.
	c, err := a.dial(addr)
	if err != nil {
		return "closed"
	}
	defer c.Close()
	if _, err := io.WriteString(c, send); err != nil {
		return "closed"
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	b, err := io.ReadAll(c)
	text := string(b)
	if own, ok := c.LocalAddr().(*net.TCPAddr); ok {
		text = strings.ReplaceAll(text, strconv.Itoa(own.Port), "PORT")
	}
	if err != nil && len(b) == 0 {
		return "closed" // by FIN or RST: what a proxy without an upstream does is not told apart
	}
	if err != nil {
		return fmt.Sprintf("%q and an error", text)
	}
	if text == "" {
		return "closed"
	}
	return fmt.Sprintf("%q", text)
}

// talk makes n connections and notes the shares of what was answered.
func (a *actor) talk(what, addr, send string, n int) {
	a.t.Helper()
	count := map[string]int{}
	for range n {
		count[strings.ReplaceAll(a.converse(addr, send), " ", "_")]++
	}
	a.noteShares(what, count, n)
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

// after tells whether the engine has been ready for d.
func (a *actor) after(d time.Duration) bool { return time.Since(a.ready) >= d }
