package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

const queueNumber = 0

// Install puts detour's table into the network namespace of the calling thread. With withQueue, connections to
// loopback pass through the queue that OpenQueue binds; while nothing is bound they pass untouched. The error tells
// which part the kernel does not have.
func Install(withQueue bool) error {
	var queue []expr.Any
	if withQueue {
		queue = []expr.Any{&expr.Queue{Num: queueNumber, Flag: expr.QueueFlagBypass}}
	}
	err := install(queue)
	if err == nil || !withQueue {
		return err
	}
	// Kernels without NFT_QUEUE usually have the older target that iptables-nft uses.
	return install([]expr.Any{xtQueue()})
}

// xtQueue is xtables' NFQUEUE target, revision 3: queue number, number of queues, flags (bit 0: bypass), each 16 bits.
func xtQueue() expr.Any {
	info := make(xt.Unknown, 8)
	binary.NativeEndian.PutUint16(info[0:], queueNumber)
	binary.NativeEndian.PutUint16(info[2:], 1)
	binary.NativeEndian.PutUint16(info[4:], 1)
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}

func install(queue []expr.Any) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "detour"})
	b := builder{conn: c, table: t}
	b.early(queue)
	b.nat()
	b.late()
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

func (b *builder) newChain(name string, kind nftables.ChainType, priority int) {
	b.chain = b.conn.AddChain(&nftables.Chain{
		Name:     name,
		Table:    b.table,
		Type:     kind,
		Hooknum:  nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)),
	})
}

func (b *builder) rule(parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: b.chain, Exprs: all})
}

// early hands the first packet of each connection to loopback to the queue. It comes before nat, since the answer
// decides what nat does.
func (b *builder) early(queue []expr.Any) {
	b.newChain("early", nftables.ChainTypeFilter, -150)
	if queue == nil {
		return
	}
	for _, to := range loopback {
		b.rule(markIs(MarkOwn, false), l4(unix.IPPROTO_TCP), daddr(to), portIs(53, true), firstPacket(), queue)
	}
}

// nat leads what is captured to detour's listeners.
func (b *builder) nat() {
	b.newChain("nat", nftables.ChainTypeNAT, -100)
	b.rule(markIs(MarkOwn, true), accept())
	b.rule(l4(unix.IPPROTO_UDP), portIs(53, false), redirect(DNSPort))
	b.rule(l4(unix.IPPROTO_TCP), portIs(53, false), redirect(DNSPort))
	b.rule(l4(unix.IPPROTO_TCP), markIs(MarkHost, true), redirect(LoopbackPort))
	for _, to := range local {
		b.rule(daddr(to), accept())
	}
	b.rule(l4(unix.IPPROTO_TCP), redirect(CapturePort))
}

// late sees destinations as nat left them. What is neither TCP nor local is refused in the act, so that the caller's
// send fails at once and nothing waits for an answer that can't come.
func (b *builder) late() {
	b.newChain("late", nftables.ChainTypeFilter, 10)
	b.rule(markIs(MarkOwn, true), accept())
	// Whoever dials one of detour's listeners without having been led there finds nothing.
	for _, port := range []uint16{CapturePort, LoopbackPort, DNSPort} {
		b.rule(l4(unix.IPPROTO_TCP), portIs(port, false), firstPacket(), notRedirected(),
			[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	}
	b.rule(l4(unix.IPPROTO_UDP), portIs(DNSPort, false), notRedirected(), refuse())
	for _, to := range local {
		b.rule(daddr(to), accept())
	}
	b.rule(l4(unix.IPPROTO_TCP), accept())
	b.rule(l4(unix.IPPROTO_ICMP), icmpType(8), refuse())     // echo request: answering for the world would be a lie
	b.rule(l4(unix.IPPROTO_ICMPV6), icmpType(128), refuse()) // the same, RFC 4443 section 4.1
	b.rule(l4(unix.IPPROTO_ICMP), accept())
	b.rule(l4(unix.IPPROTO_ICMPV6), accept())
	b.rule(refuse())
}

var (
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	local    = append([]netip.Prefix{netip.PrefixFrom(OwnIPv4, 32), netip.PrefixFrom(OwnIPv6, 128)}, loopback...)
)

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// refuse drops the packet (the sender's call fails with EPERM) and answers port unreachable.
func refuse() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}

func redirect(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

func l4(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

func op(equal bool) expr.CmpOp {
	if equal {
		return expr.CmpOpEq
	}
	return expr.CmpOpNeq
}

func markIs(mark uint32, equal bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: op(equal), Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
	}
}

func portIs(port uint16, not bool) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: op(!not), Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// firstPacket matches SYN without ACK, FIN or RST.
func firstPacket() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
	}
}

func icmpType(t byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{t}},
	}
}

// notRedirected matches packets whose connection nat has not touched (IPS_DST_NAT unset).
func notRedirected() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(1 << 5), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

func daddr(p netip.Prefix) []expr.Any {
	family, offset, size := byte(unix.NFPROTO_IPV4), uint32(16), 4
	if p.Addr().Is6() {
		family, offset, size = unix.NFPROTO_IPV6, 24, 16
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}
