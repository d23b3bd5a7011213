package dns

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what configuration files may ask for.
const (
	maxServers   = 3       // MAXNS of resolv.conf(5)
	maxSearch    = 32      // glibc has had no limit since 2.26, but a lookup must end
	maxTimeout   = 30      // seconds, resolv.conf(5)
	maxAttempts  = 5       // resolv.conf(5)
	maxNdots     = 15      // resolv.conf(5)
	maxFileBytes = 1 << 20 // of resolv.conf and hosts each; a hosts file of blocked names may be larger, and is cut
	fileRecheck  = 5 * time.Second
)

// Each try waits 2 s and each server gets 3, as in c-ares: a lost datagram must not cost resolv.conf's 5 s. Explicit
// options in resolv.conf win.
const (
	defaultTimeout  = 2 * time.Second
	defaultAttempts = 3
)

// config is what a lookup needs to know; immutable.
type config struct {
	servers  []netip.AddrPort
	search   []string
	ndots    int
	timeout  time.Duration
	attempts int
	hosts    map[string][]netip.Addr // lower case, no trailing dot; nil with --resolver
}

// parseResolvConf reads resolv.conf(5). What it does not understand is skipped, as everywhere.
func parseResolvConf(b []byte) *config {
	c := &config{ndots: 1, timeout: defaultTimeout, attempts: defaultAttempts}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 || f[0][0] == '#' || f[0][0] == ';' {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, netip.AddrPortFrom(a, 53))
			}
		case "domain", "search":
			c.search = nil
			for _, s := range f[1:] {
				if s = strings.Trim(s, "."); s != "" && len(c.search) < maxSearch {
					c.search = append(c.search, s)
				}
			}
		case "options":
			for _, o := range f[1:] {
				c.option(o)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")} // resolv.conf(5)
	}
	return c
}

func (c *config) option(o string) {
	name, val, ok := strings.Cut(o, ":")
	n, err := strconv.Atoi(val)
	if !ok || err != nil || n < 0 {
		return
	}
	switch name {
	case "ndots":
		c.ndots = min(n, maxNdots)
	case "timeout":
		c.timeout = time.Duration(min(max(n, 1), maxTimeout)) * time.Second
	case "attempts":
		c.attempts = min(max(n, 1), maxAttempts)
	}
}

// parseHosts reads hosts(5).
func parseHosts(b []byte) map[string][]netip.Addr {
	hosts := make(map[string][]netip.Addr)
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		line, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, name := range f[1:] {
			name = canonical(name)
			if name == "" || strings.HasSuffix(name, ".") { // no host name (RFC 1035 §2.3.1)
				continue
			}
			if !slices.Contains(hosts[name], a) {
				hosts[name] = append(hosts[name], a)
			}
		}
	}
	return hosts
}

// canonical is the form in which names are compared: lower case (RFC 4343), no trailing dot.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// ParseServer reads the argument of --resolver: an IP address with an optional port (53), or localhost.
func ParseServer(s string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		if ap.Port() == 0 {
			return ap, fmt.Errorf("resolver %q: port 0", s)
		}
		return ap, nil
	}
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, "53"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 && canonical(host) == "localhost" {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(n)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("resolver %q is not an IP address with an optional port", s)
}

// stamp tells two states of a file apart without reading it.
type stamp struct {
	mod  time.Time
	size int64
}

func stampOf(path string) stamp {
	fi, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{fi.ModTime(), fi.Size()}
}

// readBounded reads at most maxFileBytes, whole lines only.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, maxFileBytes)
	n := 0
	for n < len(b) {
		m, err := f.Read(b[n:])
		n += m
		if err != nil {
			return b[:n], nil
		}
	}
	return b[:bytes.LastIndexByte(b, '\n')+1], nil
}

// HostFamilies tells for which address families this machine has a route to the Internet. It connects UDP sockets,
// which asks the routing table and sends nothing.
func HostFamilies() (v4, v6 bool) {
	// Two root servers' addresses: global, and stable for decades.
	return routed("udp4", "198.41.0.4:53"), routed("udp6", "[2001:503:ba3e::2:30]:53")
}

func routed(network, addr string) bool {
	c, err := net.Dial(network, addr)
	if err != nil {
		return false
	}
	defer c.Close()
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	return err == nil && !ap.Addr().IsLinkLocalUnicast()
}
