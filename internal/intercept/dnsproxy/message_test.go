package dnsproxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/miekg/dns"
)

// echo answers every query that can be parsed with nothing, and fails the others.
type echo struct{}

func (echo) Forward(_ context.Context, q []byte, _ string) ([]byte, error) {
	m := new(dns.Msg)
	if m.Unpack(q) != nil || len(m.Question) != 1 {
		return nil, errors.New("was to be refused before")
	}
	return new(dns.Msg).SetReply(m).Pack()
}

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMalformed(t *testing.T) {
	s := New(Options{Upstream: echo{}})
	s.SetNames(names())
	good := pack(t, query("mydb.com.", dns.TypeA))
	response := bytes.Clone(good)
	response[2] |= 0x80
	two := query("mydb.com.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	none := new(dns.Msg)
	none.Id = 7
	for _, tc := range []struct {
		name   string
		packet []byte
		rcode  int // -1: no answer
	}{
		{"empty", nil, -1},
		{"short", good[:11], -1},
		{"an answer", response, -1},
		{"cut in the question", good[:len(good)-3], dns.RcodeFormatError},
		{"two questions", pack(t, two), dns.RcodeFormatError},
		{"no question", pack(t, none), dns.RcodeFormatError},
		{"name points to itself", append(bytes.Clone(good[:12]), 0xc0, 0x0c, 0, 1, 0, 1), dns.RcodeFormatError},
		{"well-formed", good, dns.RcodeSuccess},
	} {
		reply, _ := s.handle(t.Context(), tc.packet, "udp", false)
		if tc.rcode == -1 {
			if reply != nil {
				t.Errorf("%s: answered %x", tc.name, reply)
			}
			continue
		}
		m := new(dns.Msg)
		if err := m.Unpack(reply); err != nil || m.Rcode != tc.rcode || !m.Response || m.Id != binary.BigEndian.Uint16(tc.packet) {
			t.Errorf("%s: %v, %v", tc.name, m, err)
		}
	}
}

// TestOtherClassesAndOpcodes: only Internet queries are ours.
func TestOtherClassesAndOpcodes(t *testing.T) {
	s := New(Options{Upstream: echo{}})
	s.SetNames(names())
	chaos := query("mydb.com.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	notify := new(dns.Msg).SetNotify("mydb.com.")
	for _, q := range []*dns.Msg{chaos, notify} {
		if _, done := s.handle(t.Context(), pack(t, q), "udp", true); done {
			t.Errorf("answered instead of forwarded: %v", q)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(pack(f, query("mydb.com.", dns.TypeA)), false)
	f.Add(pack(f, query("MANY.com.", dns.TypeA)), false)
	f.Add(pack(f, query("1.0.240.240.in-addr.arpa.", dns.TypePTR)), true)
	edns := query("four.com.", dns.TypeHTTPS)
	edns.SetEdns0(512, true)
	f.Add(pack(f, edns), false)
	edns.IsEdns0().SetVersion(3)
	f.Add(pack(f, edns), false)
	f.Add(pack(f, query("else.test.", dns.TypeAXFR)), true)
	loop, _ := hex.DecodeString("000701000001000000000000c00c00010001")
	f.Add(loop, false)
	f.Add([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, true)
	s := New(Options{Upstream: echo{}})
	s.SetNames(names())
	f.Fuzz(func(t *testing.T, packet []byte, tcp bool) {
		over, limit := "udp", maxReply
		if tcp {
			over, limit = "tcp", dns.MaxMsgSize
		}
		before := bytes.Clone(packet)
		reply, done := s.handle(t.Context(), packet, over, false)
		if !done || !bytes.Equal(packet, before) {
			t.Fatal("not done, or changed its input")
		}
		if reply == nil {
			if len(packet) >= headerLen && packet[2]&0x80 == 0 {
				t.Fatal("a query without an answer")
			}
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(reply); err != nil || !m.Response || !bytes.Equal(reply[:2], packet[:2]) || len(reply) > limit {
			t.Fatalf("%x to %x: %v", reply, packet, err)
		}
		q := new(dns.Msg)
		if q.Unpack(packet) == nil && len(q.Question) == 1 && len(m.Question) == 1 && q.Question[0] != m.Question[0] {
			t.Fatalf("answers %v, asked %v", m.Question, q.Question)
		}
	})
}
