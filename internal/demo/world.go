package demo

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"detour.dev/detour/internal/dns/dnstest"
	"detour.dev/detour/internal/testcert"
)

// The stand-ins' addresses are from the ranges of RFC 5737, which nobody has.
var (
	eastAddr = netip.MustParseAddr("198.51.100.1")
	westAddr = netip.MustParseAddr("203.0.113.1")
)

const (
	eastName = "dynamodb.us-east-1.amazonaws.com"
	westName = "dynamodb.us-west-1.amazonaws.com"
	// dnsAddr is where the demo's DNS server listens; resolv.conf of the demo's mount namespace names it too.
	dnsAddr = "127.0.0.1"
)

// world is the network of the demo. It ends with the process: its namespaces go, and all that is in them.
type world struct {
	dir        string // for everything that is written
	trust      string // file with the authority's certificate
	east, west *standIn
	dns        *dnstest.Server
}

// newWorld furnishes the namespaces that this process is in.
func newWorld(dir string) (*world, error) {
	for _, part := range []struct {
		what string
		do   func() error
	}{
		{"loopback interface", linkUp},
		{"mounts", func() error { return mountResolver(dir) }},
	} {
		if err := part.do(); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, part.what, err)
		}
	}
	ca, err := testcert.NewCA("detour demo")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, east: newStandIn(eastName, eastAddr, ca), west: newStandIn(westName, westAddr, ca)}
	if w.trust, err = ca.WriteFile(dir, "ca.crt"); err != nil {
		return nil, err
	}
	for _, s := range []*standIn{w.east, w.west} {
		if err := s.start(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if w.dns, err = dnstest.Start(net.JoinHostPort(dnsAddr, "53")); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	w.dns.Set(eastName, time.Minute, eastAddr)
	w.dns.Set(westName, time.Minute, westAddr)
	return w, nil
}

// reset ends all troubles.
func (w *world) reset() error {
	for _, s := range []*standIn{w.east, w.west} {
		s.behave(wellBehaved)
		s.certify(s.name)
		s.take()
		if err := s.start(); err != nil {
			return err
		}
	}
	return drop(netip.Addr{})
}
