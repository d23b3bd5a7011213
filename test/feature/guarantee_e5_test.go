//go:build linux

package feature

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"detour.dev/detour/internal/dns/dnstest"
)

// TestE5EjectionOutlivesRotation: an ejection is kept by name and port, so another address of the same name is out too.
func TestE5EjectionOutlivesRotation(t *testing.T) {
	w := regions(t)
	w.dns.Set(eastName, time.Second, w.east.ip)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	p := w.proxyIn("us-east1")
	c := w.client()
	all(t, fromEast, c.gets(2))
	w.east.ports[80].behave(behaviour{Status: 503})
	all(t, fromWest, c.gets(2))
	w.east.ports[80].behave(behaviour{})
	w.dns.Set(eastName, time.Second, w.east.alt)
	p.awaitHosts(cluster80, netip.AddrPortFrom(w.east.alt, 80).String(), "10.2.0.1:80")
	all(t, fromWest, c.gets(5))
	if !p.hosts(cluster80)["10.1.0.2:80"].Failed {
		t.Error("the new address of the ejected name is not out")
	}
}

// TestE5IdleConnectionsClose: on ejection the idle connections to the endpoint close at once.
func TestE5IdleConnectionsClose(t *testing.T) {
	w, _ := walking(t)
	east := w.east.ports[80]
	load := w.client().load(4, tick)
	load.more(100)
	load.stop()
	if east.open.Load() < 2 {
		t.Fatalf("%d connections are open, want a few", east.open.Load())
	}
	east.behave(behaviour{Status: 503})
	all(t, fromWest, w.client().gets(1))
	await(t, "the idle connections are closed", func() bool { return east.open.Load() == 0 })
}

// TestE5EjectedAsLastResort: when nothing else is left, ejected endpoints are tried.
func TestE5EjectedAsLastResort(t *testing.T) {
	w, p := walking(t)
	c := w.client()
	east, west := w.east.ports[80], w.west.ports[80]
	east.stop()
	all(t, fromWest, c.gets(2))
	east.start(t)
	if !p.ejected(cluster80, w.east, 80) {
		t.Fatal("us-east-1 is not ejected")
	}
	west.stop()
	all(t, fromEast, c.gets(5))
}

// TestE5KeepsLastGoodAddresses: answers without an address, of whatever kind, change nothing while the addresses work.
func TestE5KeepsLastGoodAddresses(t *testing.T) {
	for name, trouble := range map[string]dnstest.Trouble{
		"NXDOMAIN": {Rcode: dns.RcodeNameError},
		"SERVFAIL": {Rcode: dns.RcodeServerFailure},
		"empty":    {Empty: true},
		"silence":  {Drop: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := regions(t)
			w.dns.Set(eastName, time.Second, w.east.ip)
			w.write(entryFile, w.walkthrough(step1))
			w.write(ruleFile, w.walkthrough(step2))
			p := w.proxyIn("us-east1")
			w.dns.SetTrouble(eastName, trouble)
			asked := w.dns.Count(eastName, dns.TypeA)
			await(t, "it has asked again", func() bool { return w.dns.Count(eastName, dns.TypeA) >= asked+2 })
			all(t, fromEast, w.client().gets(5))
			p.awaitHosts(cluster80, "10.1.0.1:80", "10.2.0.1:80")
		})
	}
}
