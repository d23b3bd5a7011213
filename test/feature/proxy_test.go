//go:build linux

package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Where a proxy of the tests listens, in its world's own namespace.
const (
	adminAddr   = "127.0.0.1:15000"
	captureAddr = "127.0.0.1:15001"
	forwardAddr = "127.0.0.1:15080"
	dnsAddr     = "127.0.0.1:15053"
)

// process is a running binary whose output can be waited for.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	done   chan struct{}
	mu     sync.Mutex
	stdout bytes.Buffer
	stderr bytes.Buffer
}

type tap struct {
	p *process
	b *bytes.Buffer
}

func (t tap) Write(b []byte) (int, error) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	return t.b.Write(b)
}

// start runs a command on the application's host. It is killed when the test ends.
func (w *world) start(cmd *exec.Cmd) *process {
	w.t.Helper()
	p := &process{t: w.t, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = tap{p, &p.stdout}, tap{p, &p.stderr}
	if cmd.Env == nil {
		cmd.Env = w.environment()
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a suite that panics leaves none behind
	}
	cmd.WaitDelay = patience
	w.app.must(w.t, cmd.Start)
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if w.t.Failed() {
			w.t.Logf("%s\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), tail(p.out()), tail(p.err()))
		}
	})
	return p
}

func tail(s string) string {
	const most = 3000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// environment is what commands get: nothing of the caller's own.
func (w *world) environment(more ...string) []string {
	return append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + w.scratch, "XDG_RUNTIME_DIR=" + w.scratch, "XDG_STATE_HOME=" + w.scratch,
		"TMPDIR=" + w.scratch,
		"GORACE=atexit_sleep_ms=0"}, more...)
}

func (p *process) out() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

func (p *process) err() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// logged counts the lines on stderr with all of these texts.
func (p *process) logged(texts ...string) (n int) {
	for line := range strings.Lines(p.err()) {
		all := true
		for _, s := range texts {
			all = all && strings.Contains(line, s)
		}
		if all {
			n++
		}
	}
	return n
}

// wait gives the exit status.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(3 * patience):
		p.t.Fatalf("still runs: %s", strings.Join(p.cmd.Args, " "))
	}
	return p.cmd.ProcessState.ExitCode()
}

// detour is a command line of the binary.
func detour(args ...string) *exec.Cmd { return exec.Command(os.Getenv(binaryVariable), args...) }

// limited is a command line that a shell changes its limits for.
func limited(limit string, cmd *exec.Cmd) *exec.Cmd {
	if limit == "" {
		return cmd
	}
	return exec.Command("sh", append([]string{"-c", limit + `; exec "$@"`, "sh"}, cmd.Args...)...)
}

// proxy is a running `detour proxy`.
type proxy struct {
	*process
	w     *world
	admin *http.Client
}

// proxyIn starts the binary's proxy for an application in a locality and waits until it is ready.
func (w *world) proxyIn(locality string, flags ...string) *proxy {
	w.t.Helper()
	p := w.startProxy(locality, flags...)
	await(w.t, "the proxy is ready", func() bool {
		select {
		case <-p.done:
			w.t.Fatalf("the proxy ended with status %d: %s", p.cmd.ProcessState.ExitCode(), p.err())
		default:
		}
		return p.ready()
	})
	return p
}

func (w *world) startProxy(locality string, flags ...string) *proxy {
	w.t.Helper()
	args := []string{"proxy", "-f", w.dir, "--listen", captureAddr, "--http-proxy", forwardAddr, "--dns", dnsAddr,
		"--admin", adminAddr, "--resolver", "127.0.0.53:53"}
	if locality != "" {
		args = append(args, "--locality", locality)
	}
	p := &proxy{w: w, process: w.start(limited(w.limit, detour(append(args, flags...)...)))}
	p.admin = w.adminClient()
	w.t.Cleanup(p.balanced)
	return p
}

// adminClient reaches the admin API of the world's proxy.
func (w *world) adminClient() *http.Client {
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return w.dial(adminAddr) }, DisableKeepAlives: true}
	return &http.Client{Transport: tr, Timeout: patience}
}

// balanced wants the books to be even once everybody has gone: what began has ended, and was counted once.
func (p *proxy) balanced() {
	p.t.Helper()
	select {
	case <-p.done:
		return
	default:
	}
	if p.t.Failed() {
		return
	}
	var open []string
	even := func() bool {
		open = nil
		for line := range strings.Lines(p.ask("/stats?filter=_active")) {
			name, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
			for _, gauge := range []string{"_rq_active", ".downstream_cx_active"} {
				if strings.HasSuffix(name, gauge) && v != "0" {
					open = append(open, name+": "+v)
				}
			}
		}
		return len(open) == 0
	}
	defer func() {
		if len(open) > 0 {
			p.t.Errorf("nobody is there any more, and still: %v", open)
		}
	}()
	await(p.t, "the books are even", even)
}

func (p *proxy) ready() bool {
	r, err := p.admin.Get("http://" + adminAddr + "/ready")
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// ask gets a page of the admin API.
func (p *proxy) ask(path string) string {
	p.t.Helper()
	r, err := p.admin.Get("http://" + adminAddr + path)
	if err != nil {
		p.t.Fatalf("admin: %v", err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		p.t.Fatalf("admin: %s: %d %s %v", path, r.StatusCode, b, err)
	}
	return string(b)
}

// stat gives a counter or gauge; 0 if there is none of the name.
func (p *proxy) stat(name string) (value int) {
	p.t.Helper()
	for line := range strings.Lines(p.ask("/stats")) {
		if n, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && n == name {
			_, _ = fmt.Sscan(v, &value)
		}
	}
	return value
}

// host is an endpoint as /clusters shows it.
type host struct {
	Addr    string
	Failed  bool // outlier check
	Healthy bool
	Stats   map[string]string
}

// hosts gives the endpoints of a cluster, by IP:PORT.
func (p *proxy) hosts(cluster string) map[string]host {
	p.t.Helper()
	var all struct {
		Statuses []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    uint16 `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
				Health struct {
					EDS    string `json:"eds_health_status"`
					Failed bool   `json:"failed_outlier_check"`
				} `json:"health_status"`
				Stats []struct {
					Name  string `json:"name"`
					Value string `json:"value"`
				} `json:"stats"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal([]byte(p.ask("/clusters?format=json")), &all); err != nil {
		p.t.Fatalf("/clusters: %v", err)
	}
	out := map[string]host{}
	for _, c := range all.Statuses {
		if c.Name != cluster {
			continue
		}
		for _, h := range c.Hosts {
			a, _ := netip.ParseAddr(h.Address.Socket.Address)
			o := host{Addr: netip.AddrPortFrom(a, h.Address.Socket.Port).String(), Failed: h.Health.Failed,
				Healthy: h.Health.EDS == "HEALTHY", Stats: map[string]string{}}
			for _, s := range h.Stats {
				o.Stats[s.Name] = s.Value
			}
			out[o.Addr] = o
		}
	}
	return out
}

// cluster80 is the walkthrough's cluster.
const cluster80 = "outbound|80||mydb.com"

// ejected says whether outlier detection has an endpoint out.
func (p *proxy) ejected(cluster string, s *site, port uint16) bool {
	p.t.Helper()
	return p.hosts(cluster)[netip.AddrPortFrom(s.ip, port).String()].Failed
}

// awaitHosts waits until a cluster has exactly these endpoints.
func (p *proxy) awaitHosts(cluster string, addrs ...string) {
	p.t.Helper()
	await(p.t, fmt.Sprintf("%s has %v", cluster, addrs), func() bool {
		hosts := p.hosts(cluster)
		for _, a := range addrs {
			if _, ok := hosts[a]; !ok {
				return false
			}
		}
		return len(hosts) == len(addrs)
	})
}

// pc runs `detour pc` against the proxy and gives its output.
func (p *proxy) pc(args ...string) string {
	p.t.Helper()
	cmd := detour(append(append([]string{"pc"}, args...), "--admin", adminAddr)...)
	c := p.w.start(cmd)
	if status := c.wait(); status != 0 {
		p.t.Fatalf("pc %v: status %d: %s", args, status, c.err())
	}
	return c.out()
}

// lookup asks the proxy's DNS for a name's IPv4 address.
func (p *proxy) lookup(name string) netip.Addr {
	p.t.Helper()
	return addressOf(p.t, p.query("udp", name, dns.TypeA))
}

// query asks the proxy's DNS server over UDP or TCP.
func (p *proxy) query(network, name string, qtype uint16) *dns.Msg {
	p.t.Helper()
	var c net.Conn
	p.w.app.must(p.t, func() (err error) {
		c, err = net.Dial(network, dnsAddr)
		return err
	})
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	conn := &dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)); err != nil {
		p.t.Fatal(err)
	}
	m, err := conn.ReadMsg()
	if err != nil {
		p.t.Fatalf("looking up %s: %v", name, err)
	}
	return m
}

// addressOf gives the one address in an answer.
func addressOf(t testing.TB, m *dns.Msg) netip.Addr {
	t.Helper()
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			return netip.MustParseAddr(rr.A.String())
		case *dns.AAAA:
			return netip.MustParseAddr(rr.AAAA.String())
		}
	}
	t.Fatalf("no address in %s", m)
	return netip.Addr{}
}

// scratchFile writes a file that is no configuration and gives its path.
func (w *world) scratchFile(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.scratch, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

const terminate = syscall.SIGTERM
