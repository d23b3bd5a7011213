//go:build linux

package feature

import (
	"testing"
	"time"
)

// TestE3HedgeDoesNotJudge: an endpoint that is slow to connect is raced, the other serves within the bound, and the slow
// one, which connects in the end, is not ejected for it.
func TestE3HedgeDoesNotJudge(t *testing.T) {
	w, p := walking(t)
	east := w.east.ports[80]
	undo := w.east.loseRequests()
	c := w.client()
	r := c.get()
	undo() // the kernel's second SYN, 1 s after the first, gets through
	if r.String() != fromWest || r.Took > most {
		t.Errorf("%v after %v, want the far endpoint within %v", r, r.Took, most)
	}
	await(t, "the slow connection is made", func() bool { return east.connections() > 0 })
	await(t, "us-east-1 serves", func() bool { return c.get().Body == fromEast })
	if n := p.stat("cluster." + cluster80 + ".outlier_detection.ejections_enforced_total"); n != 0 {
		t.Errorf("ejected %d times; a hedge judges nobody", n)
	}
}

// TestE3SilentEndpointIsPassedOver: while a SYN to it is unanswered, nobody else waits for that endpoint.
func TestE3SilentEndpointIsPassedOver(t *testing.T) {
	w, _ := walking(t)
	undo := w.east.loseRequests()
	defer undo()
	c := w.client()
	if r := c.get(); r.String() != fromWest || r.Took > most {
		t.Errorf("the first: %v after %v", r, r.Took)
	}
	for range 5 {
		if r := c.get(); r.String() != fromWest || r.Took > most/2 {
			t.Errorf("a later one: %v after %v, want an answer at once", r, r.Took)
		}
	}
}

// TestE3WithoutOutlierDetection: without outlierDetection both endpoints have one priority and may be raced all the same.
func TestE3WithoutOutlierDetection(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.proxyIn("us-east1")
	undo := w.east.loseRequests()
	defer undo()
	c := w.client()
	for range 6 {
		if r := c.get(); r.String() != fromWest || r.Took > most {
			t.Errorf("%v after %v", r, r.Took)
		}
	}
}

// TestE3SlowAnswerIsNotHedged: an answer may take its time; the request was acknowledged, the endpoint is alive.
func TestE3SlowAnswerIsNotHedged(t *testing.T) {
	w, p := walking(t)
	gate := make(chan struct{})
	w.east.ports[80].behave(behaviour{Gate: gate})
	c := w.client()
	answers := make(chan result, 2)
	for _, method := range []string{"GET", "POST"} {
		go func() { answers <- c.do(method, mydb+"slow", "") }()
	}
	await(t, "both are delivered", func() bool { return len(w.deliveries()) == 2 })
	if n := p.stat("cluster." + cluster80 + ".upstream_rq_active"); n != 2 {
		t.Errorf("upstream_rq_active is %d, want 2", n)
	}
	begin := time.Now()
	await(t, "well past every bound", func() bool { return time.Since(begin) > 3*most })
	if d := w.deliveries(); len(d) != 2 {
		t.Errorf("hedged: %v", d)
	}
	close(gate)
	for range 2 {
		if r := <-answers; r.String() != fromEast {
			t.Error(r)
		}
	}
	if p.ejected(cluster80, w.east, 80) {
		t.Error("ejected for being slow")
	}
}

// TestE3AcknowledgedThenSilent: a GET whose bytes were acknowledged moves when a fresh SYN to the endpoint goes unanswered
// too; a POST never does.
func TestE3AcknowledgedThenSilent(t *testing.T) {
	w, p := walking(t)
	gate := make(chan struct{})
	defer close(gate)
	w.east.ports[80].behave(behaviour{Gate: gate})
	c := w.client()
	get, post := make(chan result, 1), make(chan result, 1)
	go func() { get <- c.do("GET", mydb+"slow", "") }()
	go func() { post <- c.do("POST", mydb+"slow", "a body") }()
	await(t, "both are delivered", func() bool { return len(w.deliveries()) == 2 })
	undo := w.east.loseRequests()
	defer undo()
	all(t, fromWest, c.gets(3)) // others that find the endpoint silent
	if r := <-get; r.String() != fromWest {
		t.Errorf("GET: %v after %v", r, r.Took)
	}
	if r := <-post; r.Status != 503 && r.Status != 504 {
		t.Errorf("POST: %v after %v, want 503 or 504", r, r.Took)
	} else {
		t.Logf("POST: %v after %v", r, r.Took)
	}
	await(t, "us-east-1 is ejected", func() bool { return p.ejected(cluster80, w.east, 80) })
}
