//go:build linux

package feature

import (
	"testing"
	"time"
)

// quick has ejections pass in a test's time.
var quick = []string{"interval: 15s", "interval: 100ms", "baseEjectionTime: 1m", "baseEjectionTime: 1s"}

// most is what a GET may take while an endpoint is silent (DESIGN.md, E3).
const most = 500 * time.Millisecond

// losses are the directions in which packets can vanish.
var losses = map[string]func(*site) func(){"requests": (*site).loseRequests, "answers": (*site).loseAnswers}

// TestWalkthroughStep3c stops the near server and starts it again.
func TestWalkthroughStep3c(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2, quick...))
	p := w.proxyIn("us-east1")
	c := w.client()
	all(t, fromEast, c.gets(5))

	w.east.ports[80].stop()
	stopped := time.Now()
	all(t, fromWest, c.gets(5))
	p.table(line(w.east, 80, "FAILED"), line(w.west, 80, "OK"))
	w.east.ports[80].start(t)

	var last result
	await(t, "us-east-1 is back", func() bool {
		last = c.get()
		if s := last.String(); s != fromWest && s != fromEast {
			t.Fatalf("while it is ejected: %s", s)
		}
		return last.Body == fromEast
	})
	if out := time.Since(stopped); out < time.Second {
		t.Errorf("back after %v, want at least the 1s of baseEjectionTime", out)
	}
	all(t, fromEast, c.gets(5))
	p.table(line(w.east, 80, "OK"), line(w.west, 80, "OK"))
}

// TestWalkthroughStep3d has the packets to the near server, or its answers, vanish under traffic.
func TestWalkthroughStep3d(t *testing.T) {
	for name, lose := range losses {
		t.Run(name+" lost, warm pools", func(t *testing.T) {
			w := regions(t)
			w.write(entryFile, w.walkthrough(step1))
			w.write(ruleFile, w.walkthrough(step2, quick...))
			p := w.proxyIn("us-east1")
			load := w.client().load(8, 20*time.Millisecond)
			load.more(50)
			undo := lose(w.east)
			await(t, "us-east-1 is ejected", func() bool { return p.ejected(cluster80, w.east, 80) })
			load.more(50)
			undo()
			gets, posts := load.stop()
			load.served(t, gets, most)
			t.Logf("%d POSTs: %v", len(posts), bodies(posts))
			w.comesBack(t, w.client())
		})
		t.Run(name+" lost, cold pools", func(t *testing.T) {
			w := regions(t)
			w.write(entryFile, w.walkthrough(step1))
			w.write(ruleFile, w.walkthrough(step2, quick...))
			p := w.proxyIn("us-east1")
			undo := lose(w.east)
			load := w.client().load(8, 20*time.Millisecond)
			await(t, "us-east-1 is ejected", func() bool { return p.ejected(cluster80, w.east, 80) })
			load.more(50)
			gets, posts := load.stop()
			load.served(t, gets, most)
			all(t, fromWest, gets)
			all(t, fromWest, posts)
			undo()
			w.comesBack(t, w.client())
		})
	}
}

// comesBack waits until the near endpoint serves again.
func (w *world) comesBack(t testing.TB, c *client) {
	t.Helper()
	await(t, "us-east-1 is back", func() bool {
		r := c.get()
		if s := r.String(); s != fromWest && s != fromEast {
			t.Fatalf("on the way back: %s", s)
		}
		return r.Body == fromEast
	})
}
