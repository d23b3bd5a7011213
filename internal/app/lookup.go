package app

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"detour.dev/detour/internal/dns"
)

// proxyLookup bounds the lookup of an inherited proxy's name.
const proxyLookup = 10 * time.Second

// lookup finds the addresses of a name that nothing declares. Those that this host has a route for come first, since only
// the first may be used.
func (a *App) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	ans := a.resolver.Lookup(ctx, name, dns.All)
	v4, v6 := a.resolver.Families()
	addrs := slices.Clone(ans.Addrs)
	if v6 && !v4 {
		slices.SortStableFunc(addrs, func(x, y netip.Addr) int { return y.BitLen() - x.BitLen() })
	}
	return addrs, ans.Err
}

// proxyAddress finds an address of the inherited proxy. Nobody waits for it once the process stops.
func (a *App) proxyAddress(hostport string) (netip.AddrPort, error) {
	host, text, err := net.SplitHostPort(hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not a port", text)
	}
	ctx, cancel := context.WithTimeout(a.quit, proxyLookup)
	defer cancel()
	addr, err := a.oneAddress(ctx, host)
	return netip.AddrPortFrom(addr, uint16(port)), err
}

func (a *App) oneAddress(ctx context.Context, name string) (netip.Addr, error) {
	addrs, err := a.lookup(ctx, name)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", name)
	}
	return addrs[0], nil
}
