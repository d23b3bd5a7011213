package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// udpSize is the EDNS0 buffer size announced for our own queries: the largest that is not fragmented anywhere (DNS flag
// day 2020).
const udpSize = 1232

const maxDatagram = 16 << 10

// datagrams are read buffers. No path carries a larger datagram in practice, and a cut one is malformed, not harmful.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

var (
	errBadName   = errors.New("not a domain name")
	errMalformed = errors.New("malformed answer")
	errOnlySelf  = errors.New("the only DNS server is this process itself; name another with --resolver")
	errForeign   = errors.New("answer to another question")
)

// lookupType asks for one type and reads the answer.
func (r *Resolver) lookupType(ctx context.Context, c *config, fqdn, name string, qtype uint16) Answer {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return Answer{Err: &Error{Kind: netError(ctx.Err()), Name: name, Err: ctx.Err()}}
	}
	q := new(mdns.Msg).SetQuestion(fqdn, qtype)
	q.SetEdns0(udpSize, false)
	reply, server, err := r.exchangeMsg(ctx, c, q)
	if err == nil && reply.Rcode == mdns.RcodeFormatError {
		q.Extra = nil // a server from before EDNS (RFC 6891 §7)
		reply, server, err = r.exchangeMsg(ctx, c, q)
	}
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			e.Name = name
		}
		return Answer{Err: err}
	}
	ans := readAnswer(reply)
	if e, ok := errors.AsType[*Error](ans.Err); ok {
		e.Name, e.Server = name, server
	}
	return ans
}

func (r *Resolver) exchangeMsg(ctx context.Context, c *config, q *mdns.Msg) (*mdns.Msg, string, error) {
	packet, err := q.Pack()
	if err != nil {
		return nil, "", &Error{Kind: NXDomain, Err: errBadName}
	}
	b, server, err := r.forward(ctx, c, packet, "tcp")
	if err != nil {
		return nil, server, err
	}
	reply := new(mdns.Msg)
	if reply.Unpack(b) != nil {
		return nil, server, &Error{Kind: ServFail, Server: server, Err: errMalformed}
	}
	return reply, server, nil
}

// readAnswer follows the CNAMEs within an answer to the addresses (RFC 1034 §5.3.3; the server has done the chasing).
func readAnswer(m *mdns.Msg) Answer {
	switch m.Rcode {
	case mdns.RcodeSuccess, mdns.RcodeNameError:
	case mdns.RcodeRefused:
		return Answer{Err: &Error{Kind: Refused}}
	default:
		return Answer{Err: &Error{Kind: ServFail, Err: errors.New(mdns.RcodeToString[m.Rcode])}}
	}
	qtype, owner := m.Question[0].Qtype, m.Question[0].Name
	ttl := uint32(1<<31 - 1)
	var addrs []netip.Addr
	// Each turn uses up one CNAME, so a loop of CNAMEs ends.
	for range len(m.Answer) + 1 {
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != mdns.ClassINET || !strings.EqualFold(h.Name, owner) {
				continue
			}
			if cname, ok := rr.(*mdns.CNAME); ok && next == "" {
				next = cname.Target
				ttl = min(ttl, ttlOf(h))
			} else if a, ok := addrOf(rr, qtype); ok {
				addrs = append(addrs, a)
				ttl = min(ttl, ttlOf(h))
			}
		}
		if len(addrs) > 0 {
			return Answer{Addrs: byFamily(addrs, All), First: addrs[0], TTL: time.Duration(ttl) * time.Second}
		}
		if next == "" {
			break
		}
		owner = next
	}
	if m.Rcode == mdns.RcodeNameError {
		return Answer{Err: &Error{Kind: NXDomain}}
	}
	return Answer{Err: &Error{Kind: NoData}}
}

// ttlOf reads a TTL; one with the top bit set is 0 (RFC 2181 §8).
func ttlOf(h *mdns.RR_Header) uint32 {
	if h.Ttl > 1<<31-1 {
		return 0
	}
	return h.Ttl
}

// addrOf gives the address in a record of the type asked for. Unspecified addresses are what blocking resolvers answer,
// and a connection to one would reach this machine; neither these nor multicast nor mapped addresses are endpoints.
func addrOf(rr mdns.RR, qtype uint16) (netip.Addr, bool) {
	var ip net.IP
	switch rr := rr.(type) {
	case *mdns.A:
		ip = rr.A.To4()
	case *mdns.AAAA:
		ip = rr.AAAA
	}
	a, ok := netip.AddrFromSlice(ip)
	ok = ok && rr.Header().Rrtype == qtype && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6()
	return a, ok
}

// Forward sends a packed query, its ID included, to the servers in turn and returns the first answer to it, unchanged.
// A server that times out or answers SERVFAIL, REFUSED or the like is followed by the next; when all have, the last
// such answer is returned, else an *Error. With network "udp" a truncated answer is returned as it is, with "tcp" it
// is asked for again over TCP. Forwards are not counted among the 100 outstanding lookups: the caller bounds them.
func (r *Resolver) Forward(ctx context.Context, query []byte, network string) ([]byte, error) {
	b, _, err := r.forward(ctx, r.config(), query, network)
	return b, err
}

// Exchange is Forward for messages.
func (r *Resolver) Exchange(ctx context.Context, q *mdns.Msg, network string) (*mdns.Msg, error) {
	packet, err := q.Pack()
	if err != nil {
		return nil, &Error{Kind: ServFail, Err: err}
	}
	b, server, err := r.forward(ctx, r.config(), packet, network)
	if err != nil {
		return nil, err
	}
	reply := new(mdns.Msg)
	if err := reply.Unpack(b); err != nil {
		return nil, &Error{Kind: ServFail, Server: server, Err: errMalformed}
	}
	return reply, nil
}

func (r *Resolver) forward(ctx context.Context, c *config, query []byte, network string) (
	reply []byte, server string, err error) {
	servers := slices.Clone(r.servers(c))
	if len(servers) == 0 {
		return nil, "", &Error{Kind: ServFail, Err: errOnlySelf}
	}
	var bad []byte // an answer that another server may better
	var last error
	for range c.attempts {
		for i, s := range servers {
			if !s.IsValid() { // has answered, and won't do better if asked again
				continue
			}
			b, err := r.try(ctx, c, s, query, network)
			if ctx.Err() != nil && err != nil {
				return nil, s.String(), &Error{Kind: netError(ctx.Err()), Server: s.String(), Err: ctx.Err()}
			}
			if err != nil {
				last = worse(last, &Error{Kind: netError(err), Server: s.String(), Err: err})
				continue
			}
			if settled(b) {
				return b, s.String(), nil
			}
			bad, server, servers[i] = b, s.String(), netip.AddrPort{}
		}
	}
	if bad != nil {
		return bad, server, nil
	}
	return nil, "", last
}

// worse keeps the error that tells more: our own fault is named only if no server could be asked at all.
func worse(old error, e *Error) error {
	if old != nil && e.Kind == Local {
		return old
	}
	return e
}

// settled tells an answer about the name from one about the server's own troubles.
func settled(reply []byte) bool {
	rcode := int(reply[3] & 0xf)
	return rcode == mdns.RcodeSuccess || rcode == mdns.RcodeNameError
}

// try asks one server once, within c.timeout for each of UDP and TCP.
func (r *Resolver) try(ctx context.Context, c *config, s netip.AddrPort, query []byte, network string) ([]byte, error) {
	b, err := r.once(ctx, c.timeout, "udp", s.String(), query)
	if err != nil || network != "tcp" || b[2]&0x02 == 0 {
		return b, err
	}
	return r.once(ctx, c.timeout, "tcp", s.String(), query)
}

// once sends the query on a connection of its own (so from a random port, RFC 5452 §9.2) and waits for the answer to it;
// datagrams that answer something else are ignored.
func (r *Resolver) once(ctx context.Context, timeout time.Duration, network, server string, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := r.opt.Dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		return onceTCP(conn, query)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buf)
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			return nil, err
		}
		if answers(query, buf[:n]) {
			return bytes.Clone(buf[:n]), nil
		}
	}
}

func onceTCP(conn net.Conn, query []byte) ([]byte, error) {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(query)), uint16(len(query)))
	if _, err := conn.Write(append(out, query...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, err
	}
	if !answers(query, b) {
		return nil, errForeign
	}
	return b, nil
}

// answers tells whether a packet is the answer to a query: ID, the response bit, and the question (RFC 5452 §9.1). A
// question may be missing in an error (RFC 1035 §4.1.1 has servers that can't read it).
func answers(query, reply []byte) bool {
	const header = 12
	if len(reply) < header || len(query) < header || !bytes.Equal(query[:2], reply[:2]) || reply[2]&0x80 == 0 {
		return false
	}
	nq, nr := binary.BigEndian.Uint16(query[4:]), binary.BigEndian.Uint16(reply[4:])
	if nr == 0 && !settled(reply) {
		return true
	}
	if nq != nr {
		return false
	}
	if nq != 1 {
		return nq == 0
	}
	qn, qo, err1 := mdns.UnpackDomainName(query, header)
	rn, ro, err2 := mdns.UnpackDomainName(reply, header)
	return err1 == nil && err2 == nil && len(query) >= qo+4 && len(reply) >= ro+4 &&
		strings.EqualFold(qn, rn) && bytes.Equal(query[qo:qo+4], reply[ro:ro+4])
}
