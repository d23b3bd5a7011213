//go:build unix

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is far more than anything here takes.
const patience = 20 * time.Second

// fakeSource is a configuration that the test changes.
type fakeSource struct {
	first   source.Update
	changes chan source.Update
}

func (f *fakeSource) Load() source.Update { return f.first }

func (f *fakeSource) Watch(ctx context.Context, updates chan<- source.Update) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-f.changes:
			select {
			case updates <- u:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func files(texts ...string) (u source.Update) {
	for i, s := range texts {
		u.Files = append(u.Files, source.File{Name: fmt.Sprintf("%d.yaml", i), Data: []byte(s), Whole: true})
	}
	return u
}

// entry is a ServiceEntry for a host, served by one address.
func entry(host, resolution, address string, port uint16) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %q}
spec:
  hosts: [%q]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: %s
  endpoints: [{address: %q, ports: {http: %d}}]
`, host, host, resolution, address, port)
}

// log collects what is said.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// rig is an App with real sockets.
type rig struct {
	*App
	t       *testing.T
	source  *fakeSource
	said    *log
	proxy   string // forward proxy
	capture string
	dns     string
	admin   string
	cancel  context.CancelFunc
	ready   chan struct{}
	result  chan error
	client  *http.Client
	direct  *http.Client
	records chan string // a line for each ended request
}

// newRig makes an App; change, if not nil, has the last word about its configuration.
func newRig(t *testing.T, first source.Update, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, source: &fakeSource{first, make(chan source.Update)}, said: &log{}, ready: make(chan struct{}),
		result: make(chan error, 1), records: make(chan string, 100)}
	c := Config{Source: r.source, Group: xds.NodeGroup{IPv4: true}, Workers: 2, DrainTime: patience,
		Resolver: netip.MustParseAddrPort("127.0.0.1:9"),
		Log:      slog.New(slog.NewTextHandler(r.said, &slog.HandlerOptions{Level: slog.LevelDebug})),
		AccessLog: func(i *streaminfo.Info) {
			select {
			case r.records <- fmt.Sprintf("%s %d", i.Path, i.Code):
			default: // nobody reads them
			}
		},
	}
	c.Redirected, r.capture = listening(t)
	c.HTTPProxy, r.proxy = listening(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.dns = pc.LocalAddr().String()
	c.DNSPacket, c.DNSStream = []net.PacketConn{pc}, []net.Listener{listen(t, "127.0.0.1:0")}
	admin := listen(t, "127.0.0.1:0")
	c.Admin, r.admin = []net.Listener{admin}, admin.Addr().String()
	if change != nil {
		change(&c)
	}
	via, err := url.Parse("http://" + r.proxy)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(via)}
	r.client = &http.Client{Transport: tr, Timeout: patience}
	r.direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	t.Cleanup(tr.CloseIdleConnections)
	r.App = New(c)
	return r
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func listening(t *testing.T) ([]int, string) {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	if cerr := raw.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return []int{fd}, l.Addr().String()
}

// run starts the App; it is stopped when the test ends.
func (r *rig) run() *rig {
	r.t.Helper()
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() { r.result <- r.Run(ctx, func() { close(r.ready) }) }()
	r.t.Cleanup(func() {
		r.cancel()
		r.Quit()
		r.Quit()
		if r.t.Failed() {
			r.t.Log(r.said)
		}
		if r.result != nil {
			<-r.result
		}
	})
	return r
}

// started waits until the App is ready.
func (r *rig) started() *rig {
	r.t.Helper()
	r.run()
	select {
	case <-r.ready:
	case err := <-r.result:
		r.result = nil
		r.t.Fatalf("did not start: %v", err)
	case <-time.After(patience):
		r.t.Fatal("not ready")
	}
	return r
}

// ended waits for Run's result.
func (r *rig) ended() error {
	r.t.Helper()
	select {
	case err := <-r.result:
		r.result = nil
		return err
	case <-time.After(patience):
		r.t.Fatal("still runs")
		return nil
	}
}

// get asks for a path of mydb.com and gives "STATUS BODY".
func (r *rig) get(path string) string {
	resp, err := r.client.Get("http://mydb.com" + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, b)
}

func (r *rig) ask(method, path string) string {
	req, err := http.NewRequest(method, "http://"+r.admin+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.direct.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(b)))
}

// closed checks that nobody listens any more, and that the DNS server's port is free again.
func (r *rig) closed() {
	r.t.Helper()
	for what, addr := range map[string]string{"capture": r.capture, "proxy": r.proxy, "admin": r.admin} {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			r.t.Errorf("%s is still open", what)
		}
	}
	pc, err := net.ListenPacket("udp", r.dns)
	if err != nil {
		r.t.Errorf("DNS: %v", err)
		return
	}
	pc.Close()
}

// await looks until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-deadline:
			t.Fatalf("not so: %s", what)
		case <-tick.C:
		}
	}
}

// backend answers with its name; /slow waits for the gate.
type backend struct {
	*httptest.Server
	port  uint16
	asked chan string
	gate  chan struct{}
}

func newBackend(t *testing.T, name string) *backend {
	u := &backend{asked: make(chan string, 100), gate: make(chan struct{})}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case u.asked <- req.URL.Path:
		default:
		}
		if req.URL.Path == "/slow" {
			select {
			case <-u.gate:
			case <-req.Context().Done():
			}
		}
		_, _ = io.WriteString(w, name)
	}))
	t.Cleanup(u.Close)
	u.port = netip.MustParseAddrPort(u.Listener.Addr().String()).Port()
	return u
}

func (u *backend) entry() string { return entry("mydb.com", "STATIC", "127.0.0.1", u.port) }

func TestServes(t *testing.T) {
	a, b := newBackend(t, "a"), newBackend(t, "b")
	r := newRig(t, files(a.entry()), nil).started()
	if got := r.get("/x"); got != "200 a" {
		t.Fatalf("got %q", got)
	}
	if line := <-r.records; line != "/x 200" {
		t.Errorf("access log: %q", line)
	}
	if got := r.ask("GET", "/ready"); got != "200 LIVE" {
		t.Errorf("/ready: %q", got)
	}
	got := r.ask("GET", "/listeners")
	for _, addr := range []string{r.capture, r.proxy} {
		if !strings.Contains(got, addr) {
			t.Errorf("/listeners has no %s: %q", addr, got)
		}
	}
	m, err := dns.Exchange(new(dns.Msg).SetQuestion("mydb.com.", dns.TypeA), r.dns)
	if err != nil || len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "\t240.240.") {
		t.Errorf("DNS: %v, %v", m, err)
	}
	r.source.changes <- files(b.entry())
	await(t, "the new configuration serves", func() bool { return r.get("/") == "200 b" })
	r.cancel()
	if err := r.ended(); err != nil {
		t.Errorf("Run: %v", err)
	}
	r.closed()
}

// TestStartFails: wherever a start fails, every socket is closed and what was started has stopped (goleak).
func TestStartFails(t *testing.T) {
	good := entry("mydb.com", "STATIC", "127.0.0.1", 9)
	for name, tc := range map[string]struct {
		first  source.Update
		change func(*Config)
		want   string
	}{
		"configuration":   {first: files(good, "kind: ["), want: "1.yaml:"},
		"source":          {first: source.Update{Issues: []config.Issue{{Code: "X", Message: "gone"}}}, want: "gone"},
		"kind of proxy":   {files(good), func(c *Config) { c.ForwardProxy = map[string]string{"https_proxy": "socks5://u:secret@h:1"} }, "https_proxy names a proxy of the kind socks5://"},
		"unknown proxy":   {files(good), func(c *Config) { c.ForwardProxy = map[string]string{"http_proxy": "proxy.test:3128"} }, "proxy.test:3128"},
		"not a socket":    {files(good), func(c *Config) { c.Redirected = append(c.Redirected, file(t)) }, "non-socket"},
		"not a socket, 2": {files(good), func(c *Config) { c.Redirected = append([]int{file(t)}, c.Redirected...) }, "non-socket"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tc.first, tc.change).run()
			err := r.ended()
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			select {
			case <-r.ready:
				t.Error("it said that it is ready")
			default:
			}
			r.closed()
		})
	}
}

// file gives a descriptor that is no socket, and checks in the end that it was closed.
func file(t *testing.T) int {
	t.Helper()
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer unix.Close(p[0])
		var b [1]byte
		if n, err := unix.Read(p[0], b[:]); n != 0 || err != nil { // EAGAIN while the other end is open
			t.Errorf("a descriptor was left open: %d, %v", n, err)
		}
	})
	return p[1]
}

// TestStoppedBeforeReady: neither a stop before the start nor one during it, while it waits for DNS, leaves anything.
func TestStoppedBeforeReady(t *testing.T) {
	r := newRig(t, files(entry("mydb.com", "STATIC", "127.0.0.1", 9)), nil)
	r.Quit()
	r.run()
	if err := r.ended(); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
	r.closed()

	silent := newNameServer(t)
	r = newRig(t, files(entry("mydb.com", "DNS", "db.test", 9)), func(c *Config) { c.Resolver = silent.addr }).run()
	await(t, "the admin API tells that it begins", func() bool { return r.ask("GET", "/ready") == "503 INITIALIZING" })
	for _, page := range []string{"/clusters", "/config_dump?include_eds", "/listeners", "/stats", "/server_info"} {
		if got := r.ask("GET", page); !strings.HasPrefix(got, "200") {
			t.Errorf("%s: %.200q", page, got)
		}
	}
	<-silent.asked
	r.cancel()
	if err := r.ended(); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
	r.closed()
}

// nameServer answers for every name with 127.0.0.1, once it is told to.
type nameServer struct {
	addr   netip.AddrPort
	asked  chan struct{} // closed by the first query
	once   sync.Once
	speaks chan struct{} // closed by the test
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{addr: pc.LocalAddr().(*net.UDPAddr).AddrPort(), asked: make(chan struct{}), speaks: make(chan struct{})}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		n.once.Do(func() { close(n.asked) })
		select {
		case <-n.speaks:
		default:
			return
		}
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A: net.IPv4(127, 0, 0, 1)})
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ActivateAndServe()
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
	return n
}

// TestSilentDNS: a DNS server that says nothing holds the start up for 2 s, not for ever; until it answers there is 503.
func TestSilentDNS(t *testing.T) {
	up, ns := newBackend(t, "late"), newNameServer(t)
	r := newRig(t, files(entry("mydb.com", "DNS", "db.test", up.port)), func(c *Config) { c.Resolver = ns.addr })
	begin := time.Now()
	r.started()
	if took := time.Since(begin); took < firstAnswers || took > firstAnswers+2*time.Second {
		t.Errorf("ready after %v", took)
	}
	if got := r.get("/"); got != "503 no healthy upstream" {
		t.Errorf("got %q", got)
	}
	close(ns.speaks)
	await(t, "it serves", func() bool { return r.get("/") == "200 late" })
}

// idle opens a connection to the forward proxy that has had its answer.
func (r *rig) idle() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.proxy)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "HEAD / HTTP/1.1\r\nHost: mydb.com\r\n\r\n")
	head := make([]byte, 0, 1024)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		n, err := c.Read(head[len(head) : len(head)+1])
		if err != nil {
			r.t.Fatalf("%q: %v", head, err)
		}
		head = head[:len(head)+n]
	}
	return c
}

// slow begins a request that ends when the gate opens.
func (r *rig) slow(up *backend) chan string {
	r.t.Helper()
	answer := make(chan string, 1)
	go func() { answer <- r.get("/slow") }()
	await(r.t, "the request is under way", func() bool {
		select {
		case path := <-up.asked:
			return path == "/slow"
		default:
			return false
		}
	})
	return answer
}

// TestDrain: idle connections close at once, nothing new is taken, the request under way ends well, and then the process.
func TestDrain(t *testing.T) {
	up := newBackend(t, "x")
	r := newRig(t, files(up.entry()), nil).started()
	idle := r.idle()
	answer := r.slow(up)
	r.cancel()
	if n, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the idle connection: %d, %v", n, err)
	}
	await(t, "nothing new is taken", func() bool {
		c, err := net.Dial("tcp", r.proxy)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if got := r.ask("GET", "/ready"); got != "503 DRAINING" {
		t.Errorf("/ready: %q", got)
	}
	select {
	case err := <-r.result:
		r.result = nil
		t.Fatalf("it ended with a request under way: %v", err)
	case <-time.After(10 * drainPoll): // it would have ended by now
	}
	close(up.gate)
	if got := <-answer; got != "200 x" {
		t.Errorf("the request under way: %q", got)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	r.closed()
}

// TestDrainEnds: what does not end in time is cut; so it is when somebody asks again.
func TestDrainEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		limit time.Duration
		again func(*rig)
	}{
		"time is over":         {20 * time.Millisecond, func(*rig) {}},
		"no time":              {0, func(*rig) {}},
		"second signal":        {time.Hour, func(r *rig) { r.Quit() }},
		"second quitquitquit":  {time.Hour, func(r *rig) { r.ask("POST", "/quitquitquit") }},
		"signal of the caller": {time.Hour, func(r *rig) { r.cancel() }},
	} {
		t.Run(name, func(t *testing.T) {
			up := newBackend(t, "x")
			r := newRig(t, files(up.entry()), func(c *Config) { c.DrainTime = tc.limit }).started()
			answer := r.slow(up)
			if got := r.ask("POST", "/quitquitquit"); !strings.HasPrefix(got, "200") {
				t.Errorf("/quitquitquit: %q", got)
			}
			tc.again(r)
			if err := r.ended(); err != nil {
				t.Error(err)
			}
			if got := <-answer; strings.HasPrefix(got, "200") {
				t.Errorf("the request that was cut: %q", got)
			}
			if line := <-r.records; !strings.HasPrefix(line, "/slow ") {
				t.Errorf("access log: %q", line)
			}
			r.closed()
		})
	}
}

// TestDrainListeners: the process goes on, without taking connections.
func TestDrainListeners(t *testing.T) {
	up := newBackend(t, "x")
	r := newRig(t, files(up.entry()), nil).started()
	answer := r.slow(up)
	if got := r.ask("GET", "/drain_listeners"); !strings.HasPrefix(got, "405") {
		t.Errorf("GET: %q", got)
	}
	if got := r.ask("GET", "/ready"); got != "200 LIVE" {
		t.Errorf("/ready: %q", got)
	}
	if got := r.ask("POST", "/drain_listeners"); !strings.HasPrefix(got, "200") {
		t.Errorf("POST: %q", got)
	}
	if got := r.ask("GET", "/ready"); got != "503 DRAINING" {
		t.Errorf("/ready: %q", got)
	}
	await(t, "nothing new is taken", func() bool {
		c, err := net.Dial("tcp", r.proxy)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(up.gate)
	if got := <-answer; got != "200 x" {
		t.Errorf("the request under way: %q", got)
	}
	if m, err := dns.Exchange(new(dns.Msg).SetQuestion("mydb.com.", dns.TypeA), r.dns); err != nil || len(m.Answer) != 1 {
		t.Errorf("DNS: %v, %v", m, err)
	}
}

// TestRejected: what is dropped shows once, by its name, place and field.
func TestRejected(t *testing.T) {
	up := newBackend(t, "x")
	bad := strings.Replace(entry("other.com", "STATIC", "127.0.0.1", 9), "protocol: HTTP", "protocol: HTTQ", 1)
	r := newRig(t, files(up.entry(), bad, "kind: ["), func(c *Config) { c.KeepGoing = true }).started()
	if got := r.get("/"); got != "200 x" {
		t.Errorf("got %q", got)
	}
	got := r.App.state.Rejected()
	if len(got) != 2 {
		t.Fatalf("got %+v", got)
	}
	if g := got[0]; g.Name != "ServiceEntry default/other.com" || !strings.HasPrefix(g.Origin, "1.yaml:6") ||
		!strings.HasPrefix(g.Reason, "spec.ports[0].protocol: ") || g.At.IsZero() || g.TypeURL != "" {
		t.Errorf("got %+v", g)
	}
	if g := got[1]; g.Name != "2.yaml" || !strings.HasPrefix(g.Origin, "2.yaml:1") || g.Reason == "" {
		t.Errorf("got %+v", g)
	}
	if dump := r.ask("GET", "/config_dump"); strings.Count(dump, "other.com") == 0 || !strings.Contains(dump, "2.yaml") {
		t.Errorf("/config_dump tells nothing of it: %.2000s", dump)
	}
}
