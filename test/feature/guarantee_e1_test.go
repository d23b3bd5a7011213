//go:build linux

package feature

import (
	"sync"
	"testing"
)

// TestE1EjectionBeforeTheAnswer: the endpoint is out before the failing attempt's answer reaches the client. No request
// that begins after that answer goes there, without any wait.
func TestE1EjectionBeforeTheAnswer(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	w.write(routeFile, noRetries)
	p := w.proxyIn("us-east1")
	c := w.client()
	all(t, fromEast, c.gets(2))
	w.east.ports[80].behave(behaviour{Status: 503})
	before := len(w.deliveries())
	if r := c.get(); r.Status != 503 {
		t.Fatalf("the first answer: %v, want the endpoint's own 503", r)
	}
	rs := make([]result, 20)
	var wg sync.WaitGroup
	for i := range rs {
		wg.Go(func() { rs[i] = c.get() })
	}
	wg.Wait()
	all(t, fromWest, rs)
	east := 0
	for _, d := range w.deliveries()[before:] {
		if d.Site == eastName {
			east++
		}
	}
	if east != 1 {
		t.Errorf("us-east-1 received %d requests after its first failure, want that one only", east)
	}
	if n := p.stat("cluster." + cluster80 + ".outlier_detection.ejections_active"); n != 1 {
		t.Errorf("ejections_active is %d", n)
	}
}
