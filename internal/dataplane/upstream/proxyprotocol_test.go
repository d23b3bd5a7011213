package upstream

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

// The headers are the specification's formats, written out by hand.
func TestProxyHeader(t *testing.T) {
	for _, tc := range []struct {
		version  uint8
		from, to string
		want     string
	}{
		{1, "192.168.0.1:56324", "192.168.0.11:443", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"},
		{1, "[2001:db8::1]:1", "[2001:db8::2]:65535", "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"},
		{1, "[::ffff:10.0.0.1]:1", "10.0.0.2:2", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"},
		{1, "10.0.0.1:1", "[::1]:2", "PROXY UNKNOWN\r\n"},
		{1, "10.0.0.1:1", "", "PROXY UNKNOWN\r\n"},
		{2, "192.168.0.1:258", "192.168.0.11:443", "0d0a0d0a000d0a515549540a" + "21" + "11" + "000c" + "c0a80001" + "c0a8000b" + "0102" + "01bb"},
		{2, "[2001:db8::1]:1", "[2001:db8::2]:2", "0d0a0d0a000d0a515549540a" + "21" + "21" + "0024" +
			"20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "0001" + "0002"},
		{2, "", "10.0.0.1:1", "0d0a0d0a000d0a515549540a" + "20" + "00" + "0000"},
	} {
		parse := func(s string) (a netip.AddrPort) {
			if s != "" {
				a = netip.MustParseAddrPort(s)
			}
			return a
		}
		got := string(proxyHeader(tc.version, parse(tc.from), parse(tc.to)))
		if tc.version == 2 {
			got = hex.EncodeToString([]byte(got))
		}
		if got != tc.want {
			t.Errorf("version %d, %s to %s: %q, want %q", tc.version, tc.from, tc.to, got, tc.want)
		}
	}
}
