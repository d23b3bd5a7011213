package app

import (
	"net/netip"
	"testing"
	"time"

	"detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/dns/dnstest"
)

// TestLookupFirst: the first address of a name is one that this host has a route for, where there is any.
func TestLookupFirst(t *testing.T) {
	srv, err := dnstest.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	srv.Set("both.test", time.Hour, four, six)
	srv.Set("four.test", time.Hour, four)
	for _, c := range []struct {
		v4, v6 bool
		name   string
		want   netip.Addr
	}{
		{true, false, "both.test", four},
		{true, true, "both.test", four},
		{false, true, "both.test", six},
		{false, true, "four.test", four},
	} {
		a := &App{resolver: dns.New(dns.Options{Server: srv.Addr, Families: func() (bool, bool) { return c.v4, c.v6 }})}
		if got, err := a.oneAddress(t.Context(), c.name); err != nil || got != c.want {
			t.Errorf("IPv4 %v, IPv6 %v: %s is %v (%v), want %v", c.v4, c.v6, c.name, got, err, c.want)
		}
		if got, err := a.lookup(t.Context(), c.name); err != nil || len(got) == 0 || got[0] != c.want {
			t.Errorf("IPv4 %v, IPv6 %v: %s is at %v (%v), want %v first", c.v4, c.v6, c.name, got, err, c.want)
		}
	}
}
