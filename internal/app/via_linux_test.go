package app

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/testcert"
)

const insideVariable = "DETOUR_APP_INSIDE"

// inside runs the test once more in a user and network namespace of its own, whose loopback interface has these
// addresses too, and reports whether this is that run.
func inside(t *testing.T, addrs ...string) bool {
	t.Helper()
	if os.Getenv(insideVariable) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), insideVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return false
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	for _, a := range addrs {
		if err == nil {
			err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(32, 32)}})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

const (
	east, west = "10.9.0.1", "10.9.0.2"
	greeting   = "2525" // port of a server that speaks first
)

// corporate is an HTTP proxy that does CONNECT only.
type corporate struct {
	mu      sync.Mutex
	asked   []string       // "TARGET CREDENTIALS"
	answers map[string]int // status for a target; -1: none ever; "*" stands for all
	closed  chan struct{}
}

func (c *corporate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	auth, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "Basic "))
	c.mu.Lock()
	c.asked = append(c.asked, r.Method+" "+r.Host+" "+string(auth))
	status, ok := c.answers[r.Host]
	if !ok {
		status = c.answers["*"]
	}
	c.mu.Unlock()
	switch {
	case status == -1:
		select {
		case <-r.Context().Done():
		case <-c.closed:
		}
		return
	case status != 0:
		w.WriteHeader(status)
		return
	}
	host, port, _ := net.SplitHostPort(r.Host)
	if a, ok := names[host]; ok {
		host = a
	}
	up, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	answer := []byte("HTTP/1.1 200 Connection established\r\n\r\n")
	if port == greeting { // both in one packet
		first := make([]byte, 512)
		n, _ := up.Read(first)
		answer = append(answer, first[:n]...)
	}
	_, _ = down.Write(answer)
	go func() {
		_, _ = io.Copy(up, buffered)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(down, up)
}

func (c *corporate) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.asked)
	c.asked = nil
	return slices.Compact(out)
}

var names = map[string]string{"east.test": east, "west.test": west, "proxy.test": "127.0.0.1"}

// zone answers for names.
func zone(t *testing.T) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := strings.TrimSuffix(q.Question[0].Name, ".")
		if a := names[name]; a == "" {
			m.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(a)})
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
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// serve answers with a name.
func serve(t *testing.T, addr, name string, cert *tls.Config) {
	t.Helper()
	l := listen(t, addr)
	if cert != nil {
		l = tls.NewListener(l, cert)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
}

// regions is mydb.com in two of them, the near one first.
func regions(port uint16, policy string) source.Update {
	return files(fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mydb}
spec:
  hosts: [mydb.com]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: %d}]
  resolution: DNS
  endpoints:
  - {address: east.test, locality: us-east1}
  - {address: west.test, locality: us-west1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mydb}
spec:
  host: mydb.com
  trafficPolicy:
    connectionPool: {tcp: {connectTimeout: 1s}}
    outlierDetection: {consecutive5xxErrors: 1, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 100}
%s`, port, policy))
}

// ejected lists the endpoints that are out.
func (r *rig) ejected() (out []string) {
	for _, h := range r.state.Hosts() {
		if h.EjectedLeft > 0 {
			out = append(out, h.Address)
		}
	}
	return out
}

// TestInheritedProxy: the App's own connections go through the proxy that COMMAND's environment named.
func TestInheritedProxy(t *testing.T) {
	if !inside(t, east, west) {
		return
	}
	resolver := zone(t)
	serve(t, east+":80", "east", nil)
	serve(t, west+":80", "west", nil)
	ca, err := testcert.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Server("east.test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	file, err := ca.WriteFile(t.TempDir(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, east+":443", "east over TLS", &tls.Config{Certificates: []tls.Certificate{cert}})
	asked := func(lines ...string) []string { return lines }
	for name, tc := range map[string]struct {
		port    uint16
		policy  string
		env     map[string]string
		answers map[string]int
		want    string
		asked   []string
		ejected []string
		log     string
	}{
		"by name, with credentials": {env: map[string]string{"http_proxy": "http://me:secret@proxy.test:3128"},
			want: "200 east", asked: asked("CONNECT east.test:80 me:secret")},
		"not for http": {env: map[string]string{"https_proxy": "http://127.0.0.1:3128"}, want: "200 east"},
		"no_proxy name": {env: map[string]string{"http_proxy": "127.0.0.1:3128", "no_proxy": "east.test"},
			want: "200 east"},
		"no_proxy network": {env: map[string]string{"http_proxy": "127.0.0.1:3128", "no_proxy": "10.9.0.0/24"},
			want: "200 east"},
		"TLS origination": {port: 443, policy: "    tls: {mode: SIMPLE, caCertificates: " + file + "}\n",
			env:  map[string]string{"https_proxy": "http://127.0.0.1:3128"},
			want: "200 east over TLS", asked: asked("CONNECT east.test:443 ")},
		"one endpoint refused": {env: map[string]string{"http_proxy": "127.0.0.1:3128"}, answers: map[string]int{"east.test:80": 502},
			want: "200 west", asked: asked("CONNECT east.test:80 ", "CONNECT west.test:80 "), ejected: asked(east + ":80")},
		"credentials refused": {env: map[string]string{"http_proxy": "127.0.0.1:3128"}, answers: map[string]int{"*": 407},
			want: "503 upstream connect error", log: "407 Proxy Authentication Required"},
		"nobody there": {env: map[string]string{"http_proxy": "127.0.0.1:3129"},
			want: "503 upstream connect error", log: "forward proxy 127.0.0.1:3129: connection refused"},
		"one endpoint silent": {env: map[string]string{"http_proxy": "127.0.0.1:3128"}, answers: map[string]int{"east.test:80": -1},
			want: "200 west", asked: asked("CONNECT east.test:80 ", "CONNECT west.test:80 "), ejected: asked(east + ":80")},
		"proxy hangs": {env: map[string]string{"http_proxy": "127.0.0.1:3128"}, answers: map[string]int{"*": -1},
			want: "503 upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
			log:  "no answer to CONNECT"},
		"nobody there for one": {env: map[string]string{"http_proxy": "127.0.0.1:3129", "no_proxy": "west.test"},
			want: "200 west", log: "forward proxy 127.0.0.1:3129: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &corporate{answers: tc.answers, closed: make(chan struct{})}
			srv := &http.Server{Handler: c}
			l := listen(t, "127.0.0.1:3128")
			served := make(chan struct{})
			go func() {
				defer close(served)
				_ = srv.Serve(l)
			}()
			t.Cleanup(func() {
				close(c.closed)
				srv.Close()
				<-served
			})
			if tc.port == 0 {
				tc.port = 80
			}
			r := newRig(t, regions(tc.port, tc.policy), func(cfg *Config) {
				cfg.ForwardProxy, cfg.Resolver, cfg.DrainTime = tc.env, resolver, 0
				cfg.Group.Locality = &corev3.Locality{Region: "us-east1"}
			}).started()
			await(t, "both names are looked up", func() bool { return len(r.state.Hosts()) == 2 })
			begin := time.Now()
			if got := r.get("/"); !strings.HasPrefix(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if took := time.Since(begin); took > 8*time.Second {
				t.Errorf("after %v", took)
			}
			if got := c.seen(); tc.answers["*"] == 0 && !slices.Equal(got, tc.asked) {
				t.Errorf("the proxy was asked %q, want %q", got, tc.asked)
			}
			if len(tc.ejected) > 0 {
				await(t, "the endpoint is judged", func() bool { return len(r.ejected()) > 0 })
			}
			if got := r.ejected(); tc.answers["*"] != -1 && !slices.Equal(got, tc.ejected) {
				t.Errorf("ejected %v, want %v", got, tc.ejected)
			}
			ours := false
			for line := range strings.Lines(r.said.String()) {
				ours = ours || strings.Contains(line, "the fault is probably on this side") && strings.Contains(line, tc.log)
			}
			if ours != (tc.log != "") || strings.Contains(r.said.String(), "secret") {
				t.Errorf("the log says that the fault is here: %v, want it with %q and without credentials", ours, tc.log)
			}
		})
	}
}

// TestInheritedProxyUndeclared: what nobody declared goes through the proxy too, whoever speaks first.
func TestInheritedProxyUndeclared(t *testing.T) {
	if !inside(t, east) {
		return
	}
	l := listen(t, east+":"+greeting)
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "220 ready\r\n")
		_, _ = io.Copy(c, c)
	}()
	t.Cleanup(func() {
		l.Close()
		<-greeted
	})
	serve(t, east+":80", "east", nil)
	c := &corporate{closed: make(chan struct{})}
	srv := &http.Server{Handler: c}
	pl := listen(t, "127.0.0.1:3128")
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(pl)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	r := newRig(t, files(), func(cfg *Config) {
		cfg.ForwardProxy, cfg.DrainTime = map[string]string{"http_proxy": "127.0.0.1:3128"}, 0
	}).started()
	resp, err := r.client.Get("http://" + east + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != "east" {
		t.Errorf("got %q", b)
	}
	conn, err := net.Dial("tcp", r.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "CONNECT "+east+":"+greeting+" HTTP/1.1\r\nHost: x\r\n\r\n")
	var got strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(got.String(), "220 ready\r\n") {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("%q: %v", got.String(), err)
		}
		got.Write(one)
	}
	_, _ = io.WriteString(conn, "echo")
	echo := make([]byte, 4)
	if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "echo" {
		t.Errorf("%q, %v", echo, err)
	}
	if got := c.seen(); !slices.Equal(got, []string{"CONNECT " + east + ":80 ", "CONNECT " + east + ":" + greeting + " "}) {
		t.Errorf("the proxy was asked %q", got)
	}
}
