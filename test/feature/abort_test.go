//go:build linux

package feature

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"detour.dev/detour/internal/dns/dnstest"
)

// TestClientGone: a client that hangs up ends its request at the endpoint, which is not judged by it.
func TestClientGone(t *testing.T) {
	w, p := walking(t)
	gate := make(chan struct{})
	defer close(gate)
	east := w.east.ports[80]
	east.behave(behaviour{Gate: gate})
	for range 3 {
		c, err := w.dial(forwardAddr)
		if err != nil {
			t.Fatal(err)
		}
		before := len(w.deliveries())
		_, _ = io.WriteString(c, "GET http://mydb.com/slow HTTP/1.1\r\nHost: mydb.com\r\n\r\n")
		await(t, "it is delivered", func() bool { return len(w.deliveries()) > before })
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
		await(t, "the endpoint's connection is closed", func() bool { return east.open.Load() == 0 })
	}
	if p.ejected(cluster80, w.east, 80) {
		t.Error("the endpoint was ejected")
	}
}

// TestEndpointDiesInAnswer: an answer that breaks off reaches the client as one, never as a whole, and is not sent for
// again.
func TestEndpointDiesInAnswer(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100\r\n\r\npart", "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"} {
		t.Run(framing[:4], func(t *testing.T) {
			var w *world
			w, _ = plainUpstream(t, func(c net.Conn) {
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				w.deliver(delivery{Site: eastName, Method: req.Method, ID: req.Header.Get("X-Request-Id")})
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+framing)
			})
			r := w.client().get()
			if r.Err == nil {
				t.Errorf("looks whole: %v", r)
			}
			if d := w.deliveriesOf(r.ID); len(d) != 1 {
				t.Errorf("delivered %d times", len(d))
			}
		})
	}
}

// TestNothingResolves: without an address there is an answer all the same, and the start waits for none but 2 s.
func TestNothingResolves(t *testing.T) {
	for name, trouble := range map[string]dnstest.Trouble{"silence": {Drop: true}, "NXDOMAIN": {Rcode: dns.RcodeNameError}} {
		t.Run(name, func(t *testing.T) {
			w := regions(t)
			w.dns.SetTrouble(".", trouble)
			w.write(entryFile, w.walkthrough(step1))
			begin := time.Now()
			w.proxyIn("us-east1")
			if took := time.Since(begin); took > 2*time.Second+applied*2 {
				t.Errorf("ready after %v", took)
			}
			r := w.client().get()
			if r.Status != 503 || r.Body != "no healthy upstream" || r.Took > time.Second {
				t.Errorf("%v after %v", r, r.Took)
			}
			w.dns.SetTrouble(".", dnstest.Trouble{})
			await(t, "it is served once names resolve", func() bool { return strings.HasPrefix(w.client().get().String(), "healthy: ") })
		})
	}
}

// TestStaticEndpoints fails over between addresses, of both families.
func TestStaticEndpoints(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1, "resolution: DNS", "resolution: STATIC", eastName, w.east.ip6.String(), westName, w.west.ip.String()))
	w.write(ruleFile, w.walkthrough(step2))
	w.proxyIn("us-east1")
	c := w.client()
	all(t, fromEast, c.gets(5))
	w.east.ports[80].stop()
	all(t, fromWest, c.gets(5))
}
