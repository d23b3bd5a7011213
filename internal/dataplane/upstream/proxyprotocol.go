package upstream

import (
	"fmt"
	"net/netip"
)

// client is what an endpoint is told of a connection where the cluster speaks the PROXY protocol: who it is for, and where that
// one wanted to go. Requests of the same client share it, as in Envoy, which keys its pools by the header; no other's may.
type client struct{ from, to netip.AddrPort }

// serves remembers whose connection it is.
func (p *Pools) serves(c *Conn) {
	if !c.from.IsValid() {
		return
	}
	if p.serving == nil {
		p.serving = map[netip.AddrPort]map[*Conn]struct{}{}
	}
	if p.serving[c.from] == nil {
		p.serving[c.from] = map[*Conn]struct{}{}
	}
	p.serving[c.from][c] = struct{}{}
}

// served forgets a connection that has ended.
func (p *Pools) served(c *Conn) {
	if all := p.serving[c.from]; all != nil {
		if delete(all, c); len(all) == 0 {
			delete(p.serving, c.from)
		}
	}
}

// ClientGone closes the idle connections that were introduced as a client's which has left: they serve nobody else.
func (p *Pools) ClientGone(from netip.AddrPort) {
	if len(p.serving) == 0 {
		return
	}
	for c := range p.serving[from] {
		if c.isIdle {
			c.Close()
		}
	}
}

// proxyHeader gives the PROXY protocol's header, of version 1 or 2 (haproxy's proxy-protocol.txt §2.1, §2.2), which tells an
// endpoint who the client is and where it wanted to go. Where that is not known, or not of one family, it says so: UNKNOWN,
// or LOCAL.
func proxyHeader(version uint8, from, to netip.AddrPort) []byte {
	src, dst := from.Addr().Unmap(), to.Addr().Unmap()
	known := src.IsValid() && dst.IsValid() && src.Is4() == dst.Is4()
	if version == 1 {
		switch {
		case !known:
			return []byte("PROXY UNKNOWN\r\n")
		case src.Is4():
			return fmt.Appendf(nil, "PROXY TCP4 %s %s %d %d\r\n", src, dst, from.Port(), to.Port())
		}
		return fmt.Appendf(nil, "PROXY TCP6 %s %s %d %d\r\n", src.WithZone(""), dst.WithZone(""), from.Port(), to.Port())
	}
	const (
		signature = "\r\n\r\n\x00\r\nQUIT\n"
		local     = 0x20 // version 2, command LOCAL
		proxy     = 0x21
		tcp4      = 0x11
		tcp6      = 0x21
	)
	out := []byte(signature)
	if !known {
		return append(out, local, 0, 0, 0)
	}
	family, size := byte(tcp4), 12
	if src.Is6() {
		family, size = tcp6, 36
	}
	out = append(out, proxy, family, 0, byte(size))
	out = append(append(out, src.AsSlice()...), dst.AsSlice()...)
	return append(out, byte(from.Port()>>8), byte(from.Port()), byte(to.Port()>>8), byte(to.Port()))
}
