package discovery

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/dns/dnstest"
	mdns "github.com/miekg/dns"
)

// lines is a log that a test can wait for.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// TestStrictDNSOverSockets watches a name on a real server while its records and its health change.
func TestStrictDNSOverSockets(t *testing.T) {
	srv, err := dnstest.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	srv.Set("db.test", time.Hour, addrs("192.0.2.2 192.0.2.1 2001:db8::1")...)
	log := make(lines, 10)
	d := NewStrictDNS(dns.New(dns.Options{Server: srv.Addr, Families: func() (bool, bool) { return true, false }}),
		StrictDNSOptions{Log: slog.New(slog.NewTextHandler(log, nil))})
	defer d.Close()
	got := make(chan []netip.Addr, 10)
	w := d.Watch("db.test", Options{RespectTTL: true}, func(a []netip.Addr) { got <- a })
	if a := <-got; !slices.Equal(a, addrs("192.0.2.1 192.0.2.2")) {
		t.Fatalf("first %v; IPv6 is not for this host", a)
	}
	if n := srv.Count("db.test", mdns.TypeAAAA); n != 0 {
		t.Fatalf("asked %d times for AAAA without IPv6", n)
	}
	srv.SetTrouble("db.test", dnstest.Trouble{Rcode: mdns.RcodeServerFailure})
	w.Refresh()
	if l := <-log; !strings.Contains(l, "does not resolve") {
		t.Fatal(l)
	}
	if a, _, err := w.Last(); dns.KindOf(err) != dns.ServFail || len(a) != 2 {
		t.Fatalf("after SERVFAIL: %v, %v", a, err)
	}
	srv.SetTrouble("db.test", dnstest.Trouble{})
	srv.Set("db.test", time.Hour, addrs("192.0.2.3")...)
	if a := <-got; !slices.Equal(a, addrs("192.0.2.3")) { // by the back-off alone
		t.Fatalf("then %v", a)
	}
}
