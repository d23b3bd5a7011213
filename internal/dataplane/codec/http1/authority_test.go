package http1

import (
	"net/netip"
	"strings"
	"testing"
)

// checkIPv6 holds validIPv6 against net/netip, which takes zones too.
func checkIPv6(t *testing.T, s string) {
	t.Helper()
	addr, err := netip.ParseAddr(s)
	want := err == nil && addr.Is6() && addr.Zone() == ""
	if got := validIPv6([]byte(s)); got != want {
		t.Errorf("%q: %v, want %v", s, got, want)
	}
}

func TestValidIPv6(t *testing.T) {
	for _, s := range []string{
		"", ":", "::", ":::", "::1", "1::", "1::2", "1:::2", "::1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
		"1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2:3:4::5:6:7:8", "12345::", "abcd:EF01::", "g::", ":1::2", "1::2:", "1:2:3:4:5:6:7:",
		"::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1.2.3.4.5", "::1.2.3.256", "::01.2.3.4", "::1.2.3.4:5",
		"1.2.3.4", "::ffff:1.2.3.4", "::1..2.3", "::1.2.3.", "::a.2.3.4", "fe80::1%eth0", "fe80::1%", "1::2::3", "::1.2.3.1000", "::1.2.3.099",
	} {
		checkIPv6(t, s)
	}
}

func FuzzIPv6(f *testing.F) {
	for _, s := range []string{"::1", "1:2:3:4:5:6:1.2.3.4", "fe80::1%eth0", "1:2:3:4:5:6:7::", ":1"} {
		f.Add(s)
	}
	f.Fuzz(checkIPv6)
}

func TestValidAuthority(t *testing.T) {
	valid := "a a.test A.Test a.test. a:1 a:80 a:65535 127.0.0.1 127.0.0.1:80 [::1] [::1]:80 a_b.test xn--caf-dma.test %41 a!$&'()*+,;=~b"
	invalid := "a: a:0 a:65536 a:080000 a:+1 a:8a [::1 [::1]: [::1]80 [1.2.3.4] [] :80 a@b a/b a?b a#b a\\b a\"b a<b a|b a% a%4 a%4g a:1:2"
	for _, a := range strings.Fields(valid) {
		if !validAuthority([]byte(a), false) {
			t.Errorf("%q refused", a)
		}
	}
	for _, a := range append(strings.Fields(invalid), "", " ", "a b", "a\t", "caf\xe9") {
		if validAuthority([]byte(a), false) {
			t.Errorf("%q accepted", a)
		}
	}
	if validAuthority([]byte("a"), true) || !validAuthority([]byte("[::1]:443"), true) {
		t.Error("needPort")
	}
}

func TestSplitAuthority(t *testing.T) {
	for _, tt := range [][3]string{
		{"a.test", "a.test", ""}, {"a.test:80", "a.test", "80"}, {"[::1]", "[::1]", ""}, {"[::1]:443", "[::1]", "443"}, {"", "", ""},
	} {
		host, port := SplitAuthority([]byte(tt[0]))
		if string(host) != tt[1] || string(port) != tt[2] {
			t.Errorf("%q: %q, %q", tt[0], host, port)
		}
	}
}
