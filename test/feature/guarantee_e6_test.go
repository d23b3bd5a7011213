//go:build linux

package feature

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestE6NamesWithoutRecords: mydb.com is in no DNS and resolves for captured clients, to an address of its own that
// survives a restart and never moves, whatever else is configured later.
func TestE6NamesWithoutRecords(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	p := w.proxyIn("us-east1")
	first := map[uint16]netip.Addr{}
	for _, network := range []string{"udp", "tcp"} {
		v4 := addressOf(t, p.query(network, service1, dns.TypeA))
		if !netip.MustParsePrefix("240.240.0.0/16").Contains(v4) {
			t.Errorf("%s is %v, not in 240.240.0.0/16", service1, v4)
		}
		v6 := addressOf(t, p.query(network, strings.ToUpper(service1), dns.TypeAAAA))
		if !netip.MustParsePrefix("2001:2::/48").Contains(v6) {
			t.Errorf("%s is %v, not in 2001:2::/48", service1, v6)
		}
		first[dns.TypeA], first[dns.TypeAAAA] = v4, v6
	}
	for _, qtype := range []uint16{dns.TypeHTTPS, dns.TypeSVCB} {
		if m := p.query("udp", service1, qtype); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
			t.Errorf("%s: %s", dns.TypeToString[qtype], m)
		}
	}
	if n := w.dns.Count(service1, dns.TypeA) + w.dns.Count(service1, dns.TypeHTTPS); n != 0 {
		t.Errorf("the DNS was asked for %s %d times", service1, n)
	}

	p.terminate()
	for _, name := range []string{"a.example", "b.example", "c.example"} { // others come first in every order
		w.write(name+".yaml", w.walkthrough(step1, "mydb.com", name, "external-svc-dns", "aaa-"+name))
	}
	p = w.proxyIn("us-east1")
	seen := map[netip.Addr]string{}
	for qtype, want := range first {
		if got := addressOf(t, p.query("udp", service1, qtype)); got != want {
			t.Errorf("after a restart %s is %v, was %v", service1, got, want)
		}
	}
	for _, name := range []string{service1, "a.example", "b.example", "c.example"} {
		a := addressOf(t, p.query("udp", name, dns.TypeA))
		if other, taken := seen[a]; taken {
			t.Errorf("%s and %s are both %v", name, other, a)
		}
		seen[a] = name
	}
}

// terminate ends the proxy as a service manager does.
func (p *proxy) terminate() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(terminate)
	if status := p.wait(); status != 0 {
		p.t.Fatalf("the proxy ended with status %d", status)
	}
}

// TestE6OthersAreForwarded: what is not configured, and hosts of resolution NONE, are what the real DNS says.
func TestE6OthersAreForwarded(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write("none.yaml", `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: none
spec:
  hosts:
  - direct.example
  ports:
  - number: 80
    name: http
    protocol: HTTP
  resolution: NONE
`)
	for _, name := range []string{"direct.example", "elsewhere.example"} {
		w.dns.Set(name, time.Minute, w.west.ip)
	}
	p := w.startProxy("us-east1", "--keep-going")
	await(t, "the proxy is ready", p.ready)
	for _, name := range []string{"direct.example", "elsewhere.example"} {
		for _, network := range []string{"udp", "tcp"} {
			if a := addressOf(t, p.query(network, name, dns.TypeA)); a != w.west.ip {
				t.Errorf("%s is %v", name, a)
			}
		}
	}
	if m := p.query("udp", "nowhere.example", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("a name that is nowhere: %s", m)
	}
}
