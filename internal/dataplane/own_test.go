package dataplane_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
	"detour.dev/detour/internal/xds"
)

// bind gives a service's listener a Unix socket of its own, and leaves the others to redirected connections.
func bind(snap *xds.Snapshot, s planetest.Service, path string) *xds.Snapshot {
	for _, l := range snap.Listeners {
		if l.BindToPort == nil {
			l.BindToPort = wrapperspb.Bool(false)
		}
		if l.Name == s.Address().String() || l.Name == "0.0.0.0_80" {
			l.BindToPort = nil
			l.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
		}
	}
	return snap
}

// askUnix connects, sends, ends its direction and gives what came back.
func askUnix(t *testing.T, path, text string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	return string(b)
}

// TestOwnSockets: a listener's own socket is open from ServeOwn on, for as long as some snapshot has it, and its file goes
// with it.
func TestOwnSockets(t *testing.T) {
	first, second := planetest.NewUpstream(t, echo("1")), planetest.NewUpstream(t, echo("2"))
	a, b := tcpService("a.test", "240.240.0.1", first.Addr), tcpService("b.test", "240.240.0.2", second.Addr)
	p := planetest.Start(t, dataplane.Options{Workers: 2}, a, b)
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	set := func(snap *xds.Snapshot, bad int) []xds.Rejection {
		t.Helper()
		r := p.Set(snap)
		if len(r.Rejected) != bad {
			t.Errorf("rejected: %+v", r.Rejected)
		}
		return r.Rejected
	}
	set(bind(planetest.Snapshot(a, b), a, one), 0)
	if _, err := os.Lstat(one); !os.IsNotExist(err) {
		t.Errorf("before ServeOwn: %v", err)
	}
	if bad := p.ServeOwn(); len(bad) > 0 {
		t.Fatal(bad)
	}
	if got := askUnix(t, one, "x"); got != "1:x" {
		t.Errorf("%q", got)
	}
	before, _ := os.Lstat(one)
	set(bind(planetest.Snapshot(a, b), b, one), 0) // another listener has it now
	if got := askUnix(t, one, "x"); got != "2:x" {
		t.Errorf("%q", got)
	}
	if after, _ := os.Lstat(one); !os.SameFile(before, after) {
		t.Error("the socket was opened again")
	}
	if err := os.WriteFile(two, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := set(bind(planetest.Snapshot(a, b), b, two), 1)
	if len(bad) == 1 && (bad[0].Listen != "unix://"+two || !strings.Contains(bad[0].Reason, "no socket")) {
		t.Errorf("%+v", bad)
	}
	if _, err := os.Lstat(one); !os.IsNotExist(err) {
		t.Errorf("after it was taken away: %v", err)
	}
	os.Remove(two)
	set(bind(planetest.Snapshot(a, b), b, two), 0) // tried again
	if got := askUnix(t, two, "x"); got != "2:x" {
		t.Errorf("%q", got)
	}
	p.Drain()
	if _, err := os.Lstat(two); !os.IsNotExist(err) {
		t.Errorf("after Drain: %v", err)
	}
}

// TestOwnUndeclared: on a listener's own socket there is nowhere that a connection wanted to go. What nothing declares is
// not sent back to the socket for ever.
func TestOwnUndeclared(t *testing.T) {
	up := planetest.NewUpstream(t, planetest.Serve("1"))
	s := planetest.One(up.Addr)
	s.Port = 8080
	p := planetest.Start(t, dataplane.Options{}, s)
	path := filepath.Join(t.TempDir(), "s")
	snap := bind(planetest.Snapshot(s), s, path)
	for _, l := range snap.Listeners {
		l.BindToPort, l.Address = nil, &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
	}
	anyHost := proto.CloneOf(snap.Routes[0].VirtualHosts[0])
	anyHost.Name, anyHost.Domains = "allow_any", []string{"*"}
	anyHost.Routes[0].GetRoute().ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "PassthroughCluster"}
	snap.Routes[0].VirtualHosts = append(snap.Routes[0].VirtualHosts, anyHost)
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
	if bad := p.ServeOwn(); len(bad) > 0 {
		t.Fatal(bad)
	}
	if got := askUnix(t, path, request); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("declared: %q", got)
	}
	if got := askUnix(t, path, strings.Replace(request, "svc.test", "other.test", 1)); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("undeclared: %q", got)
	}
}

// TestOwnRoutesGone: a connection to a listener's own socket outlives the routes it began with.
func TestOwnRoutesGone(t *testing.T) {
	s := planetest.One(planetest.NewUpstream(t, planetest.Serve("1")).Addr)
	p := planetest.Start(t, dataplane.Options{}, s)
	path := filepath.Join(t.TempDir(), "s")
	snap := bind(planetest.Snapshot(s), s, path)
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
	if bad := p.ServeOwn(); len(bad) > 0 {
		t.Fatal(bad)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	ask := func() (status int) {
		t.Helper()
		if _, err := io.WriteString(c, strings.Replace(request, "Connection: close\r\n", "", 1)); err != nil {
			t.Fatal(err)
		}
		a, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		if _, err := io.Copy(io.Discard, a.Body); err != nil {
			t.Fatal(err)
		}
		return a.StatusCode
	}
	if got := ask(); got != http.StatusOK {
		t.Errorf("got %d", got)
	}
	snap = bind(planetest.Snapshot(s), s, path)
	snap.Routes = nil
	p.Set(snap)
	if got := ask(); got != http.StatusNotFound {
		t.Errorf("without routes: %d", got)
	}
}

// TestElsewhere: what nothing declares goes to the snapshot's Undeclared, whatever it is and wherever it was meant to go.
func TestElsewhere(t *testing.T) {
	up, tcp := planetest.NewUpstream(t, planetest.Serve("1")), planetest.NewUpstream(t, echo("2"))
	s := planetest.One(up.Addr)
	raw := tcpService("raw.test", "240.240.0.2", tcp.Addr)
	p := planetest.Start(t, dataplane.Options{}, s, raw)
	nobody := netip.MustParseAddrPort("192.0.2.1:9999")
	snap := planetest.Snapshot(s, raw)
	snap.Undeclared = raw.ClusterName()
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
	if got, err := exchange(t, p.Dial(nobody), "x"); got != "2:x" {
		t.Errorf("a port without listener: %q %v", got, err)
	}
	c := p.DialProxy()
	c.Send("CONNECT nobody.test:9999 HTTP/1.1\r\nHost: nobody.test:9999\r\n\r\n")
	if got, err := exchange(t, c, "x"); !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.HasSuffix(got, "2:x") {
		t.Errorf("CONNECT: %q %v", got, err)
	}
	snap = planetest.Snapshot(s, raw)
	snap.Undeclared = s.ClusterName()
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
	c = p.DialProxy()
	c.Send("GET http://nobody.test:9999/ HTTP/1.1\r\nHost: nobody.test:9999\r\nConnection: close\r\n\r\n")
	if got, err := c.Rest(); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("forward proxy: %q %v", got, err)
	}
	snap = planetest.Snapshot(s, raw)
	snap.Undeclared, snap.RegistryOnly = s.ClusterName(), true
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
	if got, _ := exchange(t, p.Dial(nobody), request); got != "" {
		t.Errorf("registry only: %q", got)
	}
}
