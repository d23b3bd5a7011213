//go:build linux

package feature

import (
	"sync"
	"testing"
	"time"
)

const mydb = "http://" + service1 + "/"

var methods = []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"}

// send sends one request of a method; POST, PUT and PATCH have a body.
func (c *client) send(method string) result {
	body := ""
	if method == "POST" || method == "PUT" || method == "PATCH" {
		body = "a body"
	}
	return c.do(method, mydb, body)
}

// TestE2UnsentGoesElsewhere: what could not be sent is tried elsewhere, whatever the method, with a policy or without.
func TestE2UnsentGoesElsewhere(t *testing.T) {
	for _, policy := range []string{"", "retryOn: gateway-error", "retryOn: 5xx"} {
		t.Run("policy "+policy, func(t *testing.T) {
			w := regions(t)
			w.write(entryFile, w.walkthrough(step1))
			w.write(ruleFile, w.walkthrough(step2, "baseEjectionTime: 1m", "baseEjectionTime: 1ms", "interval: 15s", "interval: 1ms"))
			if policy != "" {
				w.write(routeFile, retries("attempts: 1", policy))
			}
			p := w.proxyIn("us-east1")
			w.east.ports[80].stop()
			c := w.client()
			for _, m := range methods {
				await(t, "us-east-1 is back in", func() bool { return !p.ejected(cluster80, w.east, 80) })
				r := c.send(m)
				if r.Status != 200 || m != "HEAD" && r.Body != fromWest {
					t.Errorf("%s: %v", m, r)
				}
				if d := w.deliveriesOf(r.ID); len(d) != 1 || d[0].Site != westName {
					t.Errorf("%s was delivered as %v", m, d)
				}
			}
		})
	}
}

// retries is the walkthrough's VirtualService with other retries.
func retries(lines ...string) string {
	text := `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: mydb-retries
spec:
  hosts:
  - mydb.com
  http:
  - route:
    - destination:
        host: mydb.com
    retries:
`
	for _, l := range lines {
		text += "      " + l + "\n"
	}
	return text
}

// TestE2SentOnReset: a request that was received and then reset goes out again only if its method is idempotent.
func TestE2SentOnReset(t *testing.T) {
	for _, how := range []string{"reset", "close"} {
		t.Run(how, func(t *testing.T) {
			w, p := walking(t, "baseEjectionTime: 1m", "baseEjectionTime: 1ms", "interval: 15s", "interval: 1ms")
			w.east.ports[80].behave(behaviour{After: how})
			c := w.client()
			for _, m := range methods {
				await(t, "us-east-1 is back in", func() bool { return !p.ejected(cluster80, w.east, 80) })
				r := c.send(m)
				d := w.deliveriesOf(r.ID)
				if m == "POST" || m == "PATCH" {
					if r.Status != 503 || len(d) != 1 {
						t.Errorf("%s: %v, delivered %d times; want 503 and once", m, r, len(d))
					}
				} else if r.Status != 200 || len(d) != 2 {
					t.Errorf("%s: %v, delivered %d times; want the far answer after two", m, r, len(d))
				}
			}
		})
	}
}

// TestE2SentOnStatus: on 502, 503 and 504 GET, HEAD and OPTIONS go elsewhere, where outlierDetection is set.
func TestE2SentOnStatus(t *testing.T) {
	w, p := walking(t, "baseEjectionTime: 1m", "baseEjectionTime: 1ms", "interval: 15s", "interval: 1ms")
	c := w.client()
	try := func(status int, method string, want int) {
		t.Helper()
		await(t, "us-east-1 is back in", func() bool { return !p.ejected(cluster80, w.east, 80) })
		w.east.ports[80].behave(behaviour{Status: status})
		if r := c.send(method); r.Status != want {
			t.Errorf("%s answered %d by us-east-1: %v, want %d", method, status, r, want)
		}
	}
	for _, status := range []int{502, 503, 504} {
		for _, m := range methods {
			if m == "GET" || m == "HEAD" || m == "OPTIONS" {
				try(status, m, 200)
			} else {
				try(status, m, status)
			}
		}
	}
	try(500, "GET", 500)
	try(501, "GET", 501)
	try(429, "GET", 429)
}

// TestE2WithoutOutlierDetection: without outlierDetection an answer is an answer.
func TestE2WithoutOutlierDetection(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.proxyIn("us-east1")
	w.east.ports[80].behave(behaviour{Status: 503})
	w.west.ports[80].behave(behaviour{Status: 503})
	c := w.client()
	for range 10 {
		r := c.get()
		if r.Status != 503 || len(w.deliveriesOf(r.ID)) != 1 {
			t.Fatalf("%v, delivered %d times", r, len(w.deliveriesOf(r.ID)))
		}
	}
}

// TestE2Attempts0 turns both off: the first failure shows, whatever it is.
func TestE2Attempts0(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2, "baseEjectionTime: 1m", "baseEjectionTime: 1ms", "interval: 15s", "interval: 1ms"))
	w.write(routeFile, noRetries)
	p := w.proxyIn("us-east1")
	c := w.client()
	for _, b := range []behaviour{{Status: 503}, {After: "reset"}, {After: "close"}} {
		await(t, "us-east-1 is back in", func() bool { return !p.ejected(cluster80, w.east, 80) })
		w.east.ports[80].behave(b)
		if r := c.get(); r.Status != 503 || len(w.deliveriesOf(r.ID)) != 1 {
			t.Errorf("%+v: %v, delivered %d times", b, r, len(w.deliveriesOf(r.ID)))
		}
	}
}

// TestE2ExplicitRetries: a route's own retries decide about what was sent; then a POST may come twice.
func TestE2ExplicitRetries(t *testing.T) {
	w := regions(t)
	w.mayRepeat = true
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	w.write(routeFile, retries("attempts: 2", "retryOn: 5xx,reset"))
	w.proxyIn("us-east1")
	w.east.ports[80].behave(behaviour{Status: 500})
	r := w.client().post()
	if d := w.deliveriesOf(r.ID); r.Status != 200 || len(d) != 2 {
		t.Errorf("%v, delivered %v", r, d)
	}
}

// TestE2EndpointKilledUnderLoad: no GET is lost and no POST comes twice when the near server dies, is back, and dies again.
func TestE2EndpointKilledUnderLoad(t *testing.T) {
	w, p := walking(t, quick...)
	east := w.east.ports[80]
	load := w.client().load(8, 10*time.Millisecond)
	for range 3 {
		load.more(60)
		east.stop()
		await(t, "us-east-1 is ejected", func() bool { return p.ejected(cluster80, w.east, 80) })
		east.start(t)
		await(t, "us-east-1 is back in", func() bool { return !p.ejected(cluster80, w.east, 80) })
	}
	load.more(60)
	gets, posts := load.stop()
	load.served(t, gets, most)
	t.Logf("%d POSTs: %v", len(posts), bodies(posts))
}

// TestE2Budget: when every endpoint answers 503, what is sent again stays within the budget.
func TestE2Budget(t *testing.T) {
	w, p := walking(t, "baseEjectionTime: 1m", "baseEjectionTime: 1ms", "interval: 15s", "interval: 1ms")
	for _, s := range []*site{w.east, w.west} {
		s.ports[80].behave(behaviour{Status: 503})
	}
	c := w.client()
	const clients, each = 32, 25
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() { c.gets(each) })
	}
	wg.Wait()
	sent, received := clients*each, len(w.deliveries())
	if extra := received - sent; extra > sent*20/100+3*clients {
		t.Errorf("%d requests were sent again, of %d", extra, sent)
	} else {
		t.Logf("%d of %d were sent again", extra, sent)
	}
	if p.stat("cluster."+cluster80+".upstream_rq_total") != received {
		t.Errorf("upstream_rq_total is %d, the servers received %d", p.stat("cluster."+cluster80+".upstream_rq_total"), received)
	}
}
