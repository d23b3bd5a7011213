//go:build linux

package feature

import (
	"strings"
	"testing"
	"time"
)

// tlsRegions makes a world in which both endpoints serve HTTPS, each with a certificate for its own name.
func tlsRegions(t *testing.T) *world {
	t.Parallel()
	w := newWorld(t)
	w.east.https(443, w.pair(eastName))
	w.west.https(443, w.pair(westName))
	return w
}

// httpsRule is step 4's rule with the authority that the servers' certificates come from, quick ejections, and a
// connectTimeout that a test can wait for.
func (w *world) httpsRule() string {
	return w.walkthrough(httpsRule, append([]string{"mode: SIMPLE", "mode: SIMPLE\n      caCertificates: " + w.caFile(),
		"  trafficPolicy:\n", "  trafficPolicy:\n    connectionPool:\n      tcp:\n        connectTimeout: 2s\n"}, quick...)...)
}

// TestWalkthroughStep4 has plain HTTP become TLS on the way, in the endpoint's own name; then 4b, one trouble of the near
// endpoint after the other.
func TestWalkthroughStep4(t *testing.T) {
	for _, trouble := range []struct {
		name string
		do   func(w *world)
	}{
		{"port closed", func(w *world) { w.east.ports[443].stop() }},
		{"handshake fails", func(w *world) { w.east.ports[443].behave(behaviour{Hello: "alert"}) }},
		{"reset after ClientHello", func(w *world) { w.east.ports[443].behave(behaviour{Hello: "reset"}) }},
		{"closed after ClientHello", func(w *world) { w.east.ports[443].behave(behaviour{Hello: "close"}) }},
		{"no answer to ClientHello", func(w *world) { w.east.ports[443].behave(behaviour{Hello: "hold"}) }},
		{"another name", func(w *world) { w.east.ports[443].behave(behaviour{Cert: w.pair("somebody.example")}) }},
		{"answers 503", func(w *world) { w.east.ports[443].behave(behaviour{Status: 503}) }},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			w := tlsRegions(t)
			w.write(entryFile, w.walkthrough(httpsEntry))
			w.write(ruleFile, w.httpsRule())
			p := w.proxyIn("us-east1")
			c := w.client()
			all(t, fromEast, c.gets(5))
			p.table(line(w.east, 443, "OK"), line(w.west, 443, "OK"))
			w.ownNames(t)

			trouble.do(w)
			if trouble.name != "port closed" && trouble.name != "answers 503" { // a warm connection would not notice
				w.dropConnections()
			}
			gets := c.gets(5)
			all(t, fromWest, gets)
			for _, r := range gets {
				if r.Took > most+most/2 { // some room for a busy machine
					t.Errorf("a request took %v", r.Took)
				}
			}
			p.table(line(w.east, 443, "FAILED"), line(w.west, 443, "OK"))
			w.ownNames(t)
		})
	}
}

// TestWalkthroughStep4bSilence has the packets to the near server, or its answers, vanish under traffic over TLS: before the
// handshake, in it, and on connections that are in use.
func TestWalkthroughStep4bSilence(t *testing.T) {
	for name, lose := range losses {
		for _, pools := range []string{"warm", "cold"} {
			t.Run(name+" lost, "+pools+" pools", func(t *testing.T) {
				w := tlsRegions(t)
				w.write(entryFile, w.walkthrough(httpsEntry))
				w.write(ruleFile, w.httpsRule())
				p := w.proxyIn("us-east1")
				c := w.client()
				var l *load
				if pools == "warm" {
					l = c.load(6, 20*time.Millisecond)
					l.more(40)
				}
				undo := lose(w.east)
				if pools == "cold" {
					l = c.load(6, 20*time.Millisecond)
				}
				await(t, "us-east-1 is ejected", func() bool { return p.ejected(cluster80, w.east, 443) })
				l.more(40)
				undo()
				gets, posts := l.stop()
				l.served(t, gets, most)
				if pools == "cold" {
					all(t, fromWest, gets)
					all(t, fromWest, posts)
				}
				w.ownNames(t)
				w.comesBack(t, c)
			})
		}
	}
}

// dropConnections has the near server close its connections, as one does that is restarted.
func (w *world) dropConnections() {
	v := w.east.ports[443]
	v.stop()
	v.start(w.t)
}

// ownNames wants Host and SNI of everything delivered to be the endpoint's own name.
func (w *world) ownNames(t testing.TB) {
	t.Helper()
	for _, d := range w.deliveries() {
		if d.Host != d.Site || d.SNI != d.Site {
			t.Fatalf("%s received Host %q, SNI %q", d.Site, d.Host, d.SNI)
		}
	}
}

// TestTLSOriginationSystemAuthorities shows that without caCertificates only the system's authorities count: a server
// that an unknown one vouches for gets no request.
func TestTLSOriginationSystemAuthorities(t *testing.T) {
	w := tlsRegions(t)
	w.write(entryFile, w.walkthrough(httpsEntry))
	w.write(ruleFile, w.walkthrough(httpsRule))
	p := w.proxyIn("us-east1")
	if r := w.client().get(); r.Status != 503 {
		t.Errorf("got %v, want 503", r)
	}
	if p.logged("endpoint ejected", "signed by unknown authority", eastName) != 1 {
		t.Errorf("the log does not say why: %s", p.err())
	}
	if d := w.deliveries(); len(d) > 0 {
		t.Errorf("delivered all the same: %v", d)
	}
}

// TestTLSOriginationInsecure shows the loud warning.
func TestTLSOriginationInsecure(t *testing.T) {
	w := tlsRegions(t)
	w.write(entryFile, w.walkthrough(httpsEntry))
	w.write(ruleFile, w.walkthrough(httpsRule, "mode: SIMPLE", "mode: SIMPLE\n      insecureSkipVerify: true"))
	w.east.ports[443].behave(behaviour{Cert: w.pair("somebody.example")})
	p := w.proxyIn("us-east1")
	all(t, fromEast, w.client().gets(2))
	if p.logged("TLS WITHOUT VERIFICATION") != 1 {
		t.Errorf("not exactly one warning: %s", p.err())
	}
}

// TestTLSOriginationPreserveHost keeps the application's Host where the annotation asks for it.
func TestTLSOriginationPreserveHost(t *testing.T) {
	w := tlsRegions(t)
	w.write(entryFile, w.walkthrough(httpsEntry))
	w.write(ruleFile, strings.Replace(w.httpsRule(), "  name: mydynamodb\n", "  name: mydynamodb\n  annotations:\n    detour.dev/host-rewrite: preserve\n", 1))
	w.proxyIn("us-east1")
	all(t, fromEast, w.client().gets(2))
	for _, d := range w.deliveries() {
		if d.Host != service1 || d.SNI != eastName {
			t.Errorf("received Host %q, SNI %q; want the application's Host and the endpoint's SNI", d.Host, d.SNI)
		}
	}
}
