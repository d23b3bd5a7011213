//go:build linux

package feature

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"detour.dev/detour/internal/dns/dnstest"
	"detour.dev/detour/internal/testcert"
)

// The walkthrough's endpoints, and the host that the application asks for.
const (
	eastName = "dynamodb.us-east-1.amazonaws.com"
	westName = "dynamodb.us-west-1.amazonaws.com"
	service1 = "mydb.com"
)

// world is an application's host with a DNS server, linked to two regions. Worlds do not see one another, so tests that
// have one each run side by side.
type world struct {
	t          *testing.T
	app        *namespace
	east, west *site
	dns        *dnstest.Server
	ca         *testcert.CA
	dir        string // configuration
	scratch    string

	// mayRepeat says that the test's routes ask for requests to be sent again.
	mayRepeat bool

	// limit is a shell's command that limits the proxy ("ulimit -n 48").
	limit string

	capture   sync.Once
	mu        sync.Mutex
	delivered []delivery
	ids       atomic.Int64
}

// newWorld makes a world in which nothing serves yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, scratch: t.TempDir(), app: newNamespace(t)}
	w.dir = filepath.Join(w.scratch, "config")
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := w.scratch; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // commands may run as another user
		_ = os.Chmod(d, 0o755)
	}
	w.east = w.newSite(1, eastName)
	w.west = w.newSite(2, westName)
	w.app.must(t, func() error { return defaultRoutes(w.east.ip, w.east.ip6) }) // a host reaches a family's network, or has none
	var err error
	if w.ca, err = testcert.NewCA("feature tests"); err != nil {
		t.Fatal(err)
	}
	w.app.must(t, func() (err error) {
		w.dns, err = dnstest.Start("127.0.0.53:53")
		return err
	})
	t.Cleanup(w.dns.Close)
	for _, s := range []*site{w.east, w.west} {
		w.dns.Set(s.name, 60*time.Second, s.ip)
	}
	t.Cleanup(w.end)
	return w
}

// newSite makes a region: 10.N.0.1, 10.N.0.2 and fd00:N::1 in a namespace of its own.
func (w *world) newSite(n int, name string) *site {
	w.t.Helper()
	s := &site{w: w, name: name, n: newNamespace(w.t), ports: map[uint16]*service{},
		ip:  netip.AddrFrom4([4]byte{10, byte(n), 0, 1}),
		alt: netip.AddrFrom4([4]byte{10, byte(n), 0, 2}),
		ip6: netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", n)),
	}
	own := netip.AddrFrom4([4]byte{10, byte(n), 0, 254})
	own6 := netip.MustParseAddr(fmt.Sprintf("fd00:%d::fe", n))
	link(w.t, w.app, s.n, fmt.Sprintf("region%d", n),
		[]netip.Prefix{netip.PrefixFrom(own, 24), netip.PrefixFrom(own6, 64)},
		[]netip.Prefix{netip.PrefixFrom(s.ip, 24), netip.PrefixFrom(s.alt, 24), netip.PrefixFrom(s.ip6, 64)})
	w.t.Cleanup(func() {
		for _, v := range s.ports {
			v.stop()
		}
	})
	return s
}

// end checks what holds at the end of every test.
func (w *world) end() {
	w.t.Helper()
	if w.mayRepeat {
		return
	}
	seen := map[string]delivery{}
	for _, d := range w.deliveries() {
		if slices.Contains([]string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}, d.Method) || d.ID == "" {
			continue
		}
		if first, twice := seen[d.ID]; twice {
			w.t.Errorf("%s %s was delivered twice: to %s and to %s", d.Method, d.ID, first.Site, d.Site)
		}
		seen[d.ID] = d
	}
}

func (w *world) deliver(d delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delivered = append(w.delivered, d)
}

// deliveries gives all that was delivered so far, in order of arrival.
func (w *world) deliveries() []delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.delivered)
}

// deliveriesOf gives what was delivered of one request.
func (w *world) deliveriesOf(id string) (out []delivery) {
	for _, d := range w.deliveries() {
		if d.ID == id {
			out = append(out, d)
		}
	}
	return out
}

// pair issues a server certificate for the names.
func (w *world) pair(names ...string) *testcert.Pair {
	w.t.Helper()
	p, err := w.ca.Server(names...)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// caFile is a file with the authority that signs the servers' certificates.
func (w *world) caFile() string {
	w.t.Helper()
	path, err := w.ca.WriteFile(w.scratch, "ca.crt")
	if err != nil {
		w.t.Fatal(err)
	}
	return path
}

// write puts a file into the configuration's directory, by rename, as careful editors do.
func (w *world) write(name, text string) {
	w.t.Helper()
	tmp := filepath.Join(w.scratch, "new-"+name)
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(w.dir, name)); err != nil {
		w.t.Fatal(err)
	}
}

// remove takes a file out of the configuration.
func (w *world) remove(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
		w.t.Fatal(err)
	}
}

// walkthrough is a file of the walkthrough, with old, new pairs replaced; each old text must be there.
func (w *world) walkthrough(name string, oldnew ...string) string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join("../../testdata/walkthrough", name))
	if err != nil {
		w.t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			w.t.Fatalf("%s has no %q", name, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return text
}

// dial connects from the application's host.
func (w *world) dial(addr string) (net.Conn, error) {
	var c net.Conn
	err := w.app.do(func() (err error) {
		c, err = (&net.Dialer{Timeout: patience}).Dial("tcp", addr)
		return err
	})
	return c, err
}

// captureOnce redirects the application host's connections to allocated addresses.
func (w *world) captureOnce() { w.capture.Do(func() { w.app.captureTo(w.t, 15001) }) }

// patience bounds every wait. A test that needs it is about to fail.
const patience = 10 * time.Second

// tick is how often a condition is looked at.
const tick = 5 * time.Millisecond

// await waits until cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	awaitFor(t, patience, what, cond)
}

func awaitFor(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(tick)
	defer poll.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatalf("after %v still not: %s", limit, what)
		case <-poll.C:
		}
	}
}

// bodies counts the answers of several requests by their text.
func bodies(rs []result) map[string]int {
	m := map[string]int{}
	for _, r := range rs {
		m[r.String()]++
	}
	return m
}

// result is what came back for a request.
type result struct {
	Status int
	Body   string
	Err    error
	Took   time.Duration
	ID     string
	Header http.Header
}

func (r result) String() string {
	switch {
	case r.Err != nil:
		return "error: " + r.Err.Error()
	case r.Status != http.StatusOK:
		return fmt.Sprintf("%d: %s", r.Status, r.Body)
	}
	return r.Body
}

// fromEast and fromWest are the answers of the walkthrough's endpoints.
const (
	fromEast = "healthy: " + eastName
	fromWest = "healthy: " + westName
)
