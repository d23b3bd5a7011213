//go:build linux

package feature

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestDNSRotation: all addresses of a name are endpoints; those that leave the answer leave the cluster, without a failure.
func TestDNSRotation(t *testing.T) {
	w := regions(t)
	w.dns.Set(eastName, time.Second, w.east.ip, w.east.alt)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	p := w.proxyIn("us-east1")
	p.awaitHosts(cluster80, "10.1.0.1:80", "10.1.0.2:80", "10.2.0.1:80")
	load := w.client().load(4, 2*tick)
	load.more(40)
	hosts := p.hosts(cluster80)
	for _, a := range []string{"10.1.0.1:80", "10.1.0.2:80"} {
		if n := hosts[a].Stats["rq_total"]; n == "" || n == "0" {
			t.Errorf("%s got no request", a)
		}
	}
	w.dns.Set(eastName, time.Second, w.east.alt)
	p.awaitHosts(cluster80, "10.1.0.2:80", "10.2.0.1:80")
	load.more(40)
	w.dns.Set(eastName, time.Second, w.east.ip)
	p.awaitHosts(cluster80, "10.1.0.1:80", "10.2.0.1:80")
	load.more(40)
	gets, posts := load.stop()
	all(t, fromEast, gets)
	all(t, fromEast, posts)
}

// TestDNSAskedAgainOnFailure: a name is looked up again at once when a connection to its address fails, whatever its TTL.
func TestDNSAskedAgainOnFailure(t *testing.T) {
	w := regions(t)
	w.dns.Set(eastName, time.Hour, w.east.ip)
	w.write(entryFile, w.walkthrough(step1))
	p := w.proxyIn("us-east1")
	moved := w.dns.Count(eastName, dns.TypeA)
	w.dns.Set(eastName, time.Hour, w.east.alt)
	undo := filter{n: w.east.n, addrs: w.east.addrs()[:1], side: "daddr"}.drop(t)
	defer undo()
	c := w.client()
	await(t, "the new address is known", func() bool {
		if s := c.get().String(); s != fromEast && s != fromWest {
			t.Fatalf("on the way: %s", s)
		}
		_, ok := p.hosts(cluster80)["10.1.0.2:80"]
		return ok
	})
	if n := w.dns.Count(eastName, dns.TypeA); n == moved {
		t.Error("it did not ask again")
	}
	both(t, c.gets(20))
}

// TestDNSLateAnswer: a name that does not resolve at the start holds nobody up for long, and is used once it resolves.
func TestDNSLateAnswer(t *testing.T) {
	w := regions(t)
	w.dns.Remove(eastName)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	p := w.proxyIn("us-east1")
	c := w.client()
	all(t, fromWest, c.gets(3))
	if p.logged("does not resolve", eastName) != 1 {
		t.Errorf("not said exactly once: %s", p.err())
	}
	w.dns.Set(eastName, time.Minute, w.east.ip)
	await(t, "us-east-1 serves", func() bool { return c.get().String() == fromEast })
}
