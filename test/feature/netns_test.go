//go:build linux

package feature

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace, alive as long as its file is open.
type namespace struct{ f *os.File }

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	n := &namespace{}
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("network namespace: %v", err)
	}
	t.Cleanup(func() { n.f.Close() })
	n.must(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// onThread runs f on a thread whose network namespace it may change; it is changed back.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer own.Close()
		err = f()
		if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, back) // the thread ends with its goroutine
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// do runs f in the namespace. Sockets and processes that f makes belong to it.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (n *namespace) must(t testing.TB, f func() error) {
	t.Helper()
	if err := n.do(f); err != nil {
		t.Fatal(err)
	}
}

// link joins two namespaces by a pair of interfaces with these addresses on both ends.
func link(t testing.TB, a, b *namespace, name string, aAddrs, bAddrs []netip.Prefix) {
	t.Helper()
	a.must(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(int(b.f.Fd()))})
	})
	macs := map[*namespace]net.HardwareAddr{}
	for n, addrs := range map[*namespace][]netip.Prefix{a: aAddrs, b: bAddrs} {
		n.must(t, func() (err error) {
			macs[n], err = addressLink(name, addrs)
			return err
		})
	}
	a.must(t, func() error { return neighbours(name, macs[b], bAddrs) })
	b.must(t, func() error { return neighbours(name, macs[a], aAddrs) })
}

// neighbours makes the peers known, so that no first packet waits for the discovery of neighbours to begin, which takes a
// second on a new interface.
func neighbours(name string, mac net.HardwareAddr, addrs []netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.Addr().AsSlice(), HardwareAddr: mac}); err != nil {
			return fmt.Errorf("neighbour %s: %w", a, err)
		}
	}
	return nil
}

func addressLink(name string, addrs []netip.Prefix) (net.HardwareAddr, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		n := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD}); err != nil {
			return nil, fmt.Errorf("address %s: %w", a, err)
		}
	}
	return l.Attrs().HardwareAddr, netlink.LinkSetUp(l)
}

func defaultRoutes(gateways ...netip.Addr) error {
	for _, gw := range gateways {
		if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("default route by %s: %w", gw, err)
		}
	}
	return nil
}

// filter is a chain in a namespace that packets can be dropped in.
type filter struct {
	n     *namespace
	addrs []netip.Addr
	side  string // "saddr" or "daddr": which of a packet's addresses is compared
}

// table is the one table that tests use in a namespace.
func (n *namespace) nft(f func(c *nftables.Conn) error) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(n.f.Fd())))
	if err != nil {
		return err
	}
	if err := f(c); err != nil {
		return err
	}
	return c.Flush()
}

// drop makes packets that come into the namespace and fit the filter vanish, until undo.
func (f filter) drop(t testing.TB) (undo func()) {
	t.Helper()
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "drop-" + f.side + "-" + f.addrs[0].String()}
	err := f.n.nft(func(c *nftables.Conn) error {
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		for _, a := range f.addrs {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(matchAddress(a, f.side), &expr.Verdict{Kind: expr.VerdictDrop})})
		}
		return nil
	})
	if err != nil {
		t.Fatalf("dropping packets: %v", err)
	}
	return func() {
		t.Helper()
		if err := f.n.nft(func(c *nftables.Conn) error { c.DelTable(table); return nil }); err != nil {
			t.Errorf("no longer dropping packets: %v", err)
		}
	}
}

// matchAddress compares a packet's source or destination address.
func matchAddress(a netip.Addr, side string) []expr.Any {
	family, offset, size := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if a.Is6() {
		family, offset, size = unix.NFPROTO_IPV6, 8, 16
	}
	if side == "daddr" {
		offset += size
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
	}
}

// captureTo redirects TCP connections to the range of allocated addresses to a port of the namespace's own loopback, as
// an administrator would for `detour proxy --listen`.
func (n *namespace) captureTo(t testing.TB, port uint16) {
	t.Helper()
	n.must(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		own := &net.IPNet{IP: net.IPv4(10, 255, 0, 1).To4(), Mask: net.CIDRMask(32, 32)}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: own}); err != nil {
			return err
		}
		_, allocated, _ := net.ParseCIDR("240.240.0.0/16")
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: allocated, Type: unix.RTN_LOCAL,
			Scope: netlink.SCOPE_HOST, Src: own.IP})
	})
	n.redirect(t, port, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{240, 240}})
}

// captureFrom redirects the TCP connections of clients in a network of whole bytes to a port of the namespace's own loopback.
func (n *namespace) captureFrom(t testing.TB, clients netip.Prefix, port uint16) {
	t.Helper()
	size := clients.Bits() / 8
	n.redirect(t, port, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: uint32(size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: clients.Addr().AsSlice()[:size]})
}

// redirect sends TCP connections that match to a port of the namespace's own loopback.
func (n *namespace) redirect(t testing.TB, port uint16, match ...expr.Any) {
	t.Helper()
	err := n.nft(func(c *nftables.Conn) error {
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "capture"})
		chain := c.AddChain(&nftables.Chain{Name: "output", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
			&expr.Redir{RegisterProtoMin: 1},
		)})
		return nil
	})
	if err != nil {
		t.Fatalf("redirecting: %v", err)
	}
}

// listener listens in the namespace. A listener of the same address that was closed is open for a moment longer where a
// process was being started at that time: it has a copy until it executes.
func (n *namespace) listener(t testing.TB, addr string) (l net.Listener) {
	t.Helper()
	await(t, addr+" can be listened on", func() bool {
		err := n.do(func() (err error) {
			network := "tcp"
			if strings.HasPrefix(addr, "/") {
				network = "unix"
			}
			l, err = net.Listen(network, addr)
			return err
		})
		if err != nil && !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
		return err == nil
	})
	return l
}

// listening is a plain TCP server.
type listening struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// listen serves connections to an address in the namespace, until the test's end.
func (n *namespace) listen(t testing.TB, addr string, serve func(net.Conn)) *listening {
	t.Helper()
	s := &listening{conns: map[net.Conn]bool{}, l: n.listener(t, addr)}
	s.wg.Go(func() {
		for {
			c, err := s.l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.wg.Go(func() {
				serve(c)
				c.Close()
			})
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *listening) stop() {
	s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}
