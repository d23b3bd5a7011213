package dnsproxy

import (
	"net/netip"
	"strings"

	"detour.dev/detour/internal/xds"
	"github.com/miekg/dns"
)

// answerTTL is the TTL of every answer from the table, in seconds: an allocated address never moves, but its host can
// leave the configuration.
const answerTTL = 30

// allocated are the ranges that addresses are given out from (DESIGN.md, E6). Only these are answered backwards; a
// stated address has a PTR record of its own.
var allocated = [...]netip.Prefix{netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48")}

// table is what is answered without asking anyone; immutable.
type table struct {
	addrs map[string][]netip.Addr // by canonical name with its trailing dot
	hosts map[string]string       // by reverse name ("1.0.240.240.in-addr.arpa.")
	from  []xds.Name
}

func newTable(names []xds.Name) *table {
	t := &table{addrs: make(map[string][]netip.Addr, len(names)), hosts: make(map[string]string, 2*len(names)), from: names}
	for _, n := range names {
		fqdn := dns.CanonicalName(n.Host)
		if _, ok := dns.IsDomainName(fqdn); !ok || strings.HasPrefix(fqdn, "*.") || len(n.Addrs) == 0 {
			continue
		}
		for _, a := range n.Addrs {
			a = a.Unmap().WithZone("")
			t.addrs[fqdn] = append(t.addrs[fqdn], a)
			for _, p := range allocated {
				if !p.Contains(a) {
					continue
				}
				if rev, err := dns.ReverseAddr(a.String()); err == nil && t.hosts[rev] == "" {
					t.hosts[rev] = fqdn
				}
			}
		}
	}
	return t
}

// answer makes the whole answer to a question about a name of ours, and reports false for any other.
func (t *table) answer(q *dns.Msg) (*dns.Msg, bool) {
	question := q.Question[0]
	if q.Opcode != dns.OpcodeQuery || question.Qclass != dns.ClassINET {
		return nil, false
	}
	name := dns.CanonicalName(question.Name)
	addrs, isHost := t.addrs[name]
	host, isReverse := t.hosts[name]
	if !isHost && !isReverse {
		return nil, false
	}
	m := new(dns.Msg).SetReply(q)
	m.Authoritative, m.RecursionAvailable, m.CheckingDisabled = true, true, q.CheckingDisabled
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, opt.Do())
		if opt.Version() != 0 { // RFC 6891 §6.1.3
			m.Rcode = dns.RcodeBadVers
			return m, true
		}
	}
	hdr := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
	switch {
	case isReverse && question.Qtype == dns.TypePTR:
		m.Answer = append(m.Answer, &dns.PTR{Hdr: hdr, Ptr: host})
	case isHost && question.Qtype == dns.TypeA:
		for _, a := range addrs {
			if a.Is4() {
				m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
			}
		}
	case isHost && question.Qtype == dns.TypeAAAA:
		for _, a := range addrs {
			if a.Is6() {
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
			}
		}
	}
	if len(m.Answer) == 0 { // NODATA; the SOA says how long that may be remembered (RFC 2308 §3)
		hdr.Rrtype = dns.TypeSOA
		m.Ns = append(m.Ns, &dns.SOA{Hdr: hdr, Ns: question.Name, Mbox: ".", Serial: 1, Refresh: answerTTL,
			Retry: answerTTL, Expire: answerTTL, Minttl: answerTTL})
	}
	return m, true
}
