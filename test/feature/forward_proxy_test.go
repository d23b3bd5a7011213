//go:build linux

package feature

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// raw sends bytes on a new connection and gives all that comes back until the other side closes.
func (w *world) raw(addr, send string) string {
	w.t.Helper()
	c, err := w.dial(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	limit(c)
	if _, err := io.WriteString(c, send); err != nil {
		w.t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		w.t.Errorf("after %q: %v", b, err)
	}
	return string(b)
}

// TestForwardProxy: absolute form, origin form by Host, CONNECT to a declared HTTP port; nothing undeclared unless it is
// allowed.
func TestForwardProxy(t *testing.T) {
	w, _ := walking(t)
	w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
	const end = "Connection: close\r\n\r\n"
	for _, c := range []struct{ what, send, want string }{
		{"absolute form", "GET http://mydb.com/ HTTP/1.1\r\nHost: mydb.com\r\n" + end, fromEast},
		{"origin form", "GET / HTTP/1.1\r\nHost: mydb.com\r\n" + end, fromEast},
		{"origin form with a port", "GET / HTTP/1.1\r\nHost: mydb.com:80\r\n" + end, fromEast},
		{"CONNECT", "CONNECT mydb.com:80 HTTP/1.1\r\nHost: mydb.com:80\r\n\r\nGET / HTTP/1.1\r\nHost: mydb.com\r\n" + end, fromEast},
		{"undeclared", "GET http://elsewhere.example/ HTTP/1.1\r\nHost: elsewhere.example\r\n" + end, "HTTP/1.1 502 "},
		{"CONNECT undeclared", "CONNECT elsewhere.example:80 HTTP/1.1\r\nHost: elsewhere.example:80\r\n" + end, "HTTP/1.1 502 "},
		{"https", "GET https://mydb.com/ HTTP/1.1\r\nHost: mydb.com\r\n" + end, "HTTP/1.1 501 "},
		{"no port of the host's", "GET http://mydb.com:81/ HTTP/1.1\r\nHost: mydb.com:81\r\n" + end, "HTTP/1.1 502 "},
	} {
		if got := w.raw(forwardAddr, c.send); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// TestForwardProxyAllowAny passes undeclared hosts, when it is told to.
func TestForwardProxyAllowAny(t *testing.T) {
	w := regions(t)
	w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	w.proxyIn("us-east1", "--outbound-policy", "allow-any")
	const end = "Connection: close\r\n\r\n"
	for _, send := range []string{
		"GET http://elsewhere.example/ HTTP/1.1\r\nHost: elsewhere.example\r\n" + end,
		"CONNECT elsewhere.example:80 HTTP/1.1\r\nHost: elsewhere.example:80\r\n\r\nGET / HTTP/1.1\r\nHost: elsewhere.example\r\n" + end,
		"CONNECT 10.2.0.1:80 HTTP/1.1\r\nHost: 10.2.0.1:80\r\n\r\nGET / HTTP/1.1\r\nHost: elsewhere.example\r\n" + end,
	} {
		if got := w.raw(forwardAddr, send); !strings.Contains(got, fromWest) {
			t.Errorf("%q: %q", send, got)
		}
	}
}

// TestAllocatedAddressIsNeverDialled: an undeclared Host at an allocated address is 404, an undeclared port a reset.
func TestAllocatedAddressIsNeverDialled(t *testing.T) {
	w, p := walking(t)
	w.captureOnce()
	addr := p.lookup(service1).String()
	if got := w.raw(addr+":80", "GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("an undeclared Host: %q", got)
	}
	c, err := w.dial(addr + ":81")
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		b, rerr := io.ReadAll(c)
		c.Close()
		if rerr == nil || len(b) > 0 {
			t.Errorf("an undeclared port: %q, %v", b, rerr)
		}
	}
}

// TestHeadersPassUntouched: what is not detour's passes untouched, what a client says in x-envoy-* is not obeyed.
func TestHeadersPassUntouched(t *testing.T) {
	w, _ := walking(t)
	w.raw(forwardAddr, "GET http://mydb.com/a/../b//c%2F?x HTTP/1.1\r\nHost: mydb.com\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nX-Forwarded-For: 1.2.3.4\r\n"+
		"TE: trailers\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Request-Id: mine\r\n\r\n")
	d := w.deliveriesOf("mine")
	if len(d) != 1 {
		t.Fatalf("delivered: %v", d)
	}
	want := http.Header{"X-Envoy-Upstream-Rq-Timeout-Ms": {"1"}, "X-Forwarded-For": {"1.2.3.4"}, "X-Request-Id": {"mine"}}
	for k, v := range d[0].Header {
		if k == "Connection" || k == "Te" {
			continue
		}
		if want.Get(k) != strings.Join(v, ",") {
			t.Errorf("%s: %v arrived", k, v)
		}
		want.Del(k)
	}
	if len(want) > 0 {
		t.Errorf("lost: %v", want)
	}
}
