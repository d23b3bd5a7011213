//go:build linux

package feature

import (
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
)

const ourFault = "the fault is probably on this side"

// links takes the application host's links to both regions down, or up again.
func (w *world) links(up bool) {
	w.t.Helper()
	w.app.must(w.t, func() error {
		for _, name := range []string{"region1", "region2"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			f := netlink.LinkSetDown
			if up {
				f = netlink.LinkSetUp
			}
			if err := f(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestE4NoNetwork: without a network nothing is ejected, and once it is back the near endpoint serves at once.
func TestE4NoNetwork(t *testing.T) {
	w, p := walking(t)
	c := w.client()
	all(t, fromEast, c.gets(3))
	w.links(false)
	await(t, "the change was seen", func() bool { return p.logged("the network changed") > 0 })
	for range 5 {
		if r := c.get(); r.Status != 503 {
			t.Errorf("without a network: %v", r)
		}
	}
	if n := p.logged(ourFault); n != 1 {
		t.Errorf("%d lines say that the fault is here, want 1", n)
	}
	w.links(true)
	// The first packet on a link that has just come up may be lost: then the far endpoint serves once, as a hedge.
	await(t, "the near endpoint serves", func() bool { return c.get().String() == fromEast })
	if n := p.stat("cluster." + cluster80 + ".outlier_detection.ejections_enforced_total"); n != 0 {
		t.Errorf("ejected %d times", n)
	}
}

// TestE4NoDescriptors: a proxy that is out of file descriptors judges nobody, and serves again when it has some.
func TestE4NoDescriptors(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	w.limit = "ulimit -n 48"
	p := w.proxyIn("us-east1")
	gate := make(chan struct{})
	w.east.ports[80].behave(behaviour{Gate: gate})
	w.west.ports[80].behave(behaviour{Gate: gate})
	c := w.client()
	var wg sync.WaitGroup
	rs := make([]result, 40)
	for i := range rs { // each takes two descriptors for as long as the gate is closed
		wg.Go(func() { rs[i] = c.do("GET", mydb+"slow", "") })
	}
	await(t, "it says that the fault is here", func() bool { return p.logged("the fault is") > 0 })
	close(gate)
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	await(t, "all are answered", func() bool {
		c.fresh() // idle connections of the client hold descriptors of the proxy
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	for _, r := range rs {
		if r.Err != nil || r.Status != 200 && r.Status != 503 {
			t.Error(r)
		}
	}
	await(t, "a request is served", func() bool { return c.get().String() == fromEast })
	if n := p.logged("the fault is"); n > 2 {
		t.Errorf("said %d times", n)
	}
	if strings.Contains(p.err(), "endpoint ejected") {
		t.Error("an endpoint was ejected")
	}
}

// TestE4AllFailAtOnce: when every endpoint fails, the last one is judged by nothing.
func TestE4AllFailAtOnce(t *testing.T) {
	w, p := walking(t)
	c := w.client()
	all(t, fromEast, c.gets(3))
	w.east.ports[80].stop()
	w.west.ports[80].stop()
	for range 5 {
		if r := c.get(); r.Status != 503 {
			t.Errorf("with everything down: %v", r)
		}
	}
	if p.ejected(cluster80, w.east, 80) && p.ejected(cluster80, w.west, 80) {
		t.Error("both are ejected")
	}
	if n := p.logged(ourFault); n != 1 {
		t.Errorf("%d lines say that the fault may be here, want 1", n)
	}
	w.west.ports[80].start(t)
	await(t, "the first to be back serves", func() bool { return c.get().String() == fromWest })
}
