package dnsproxy

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"

	"github.com/miekg/dns"
)

const (
	headerLen = 12   // RFC 1035 §4.1.1
	maxUDP    = 1232 // the buffer size announced; see internal/dns
	// maxReply is the largest answer over UDP whatever the client announces; beyond it fragments get lost.
	maxReply = 4096
)

// flight identifies a query on its way to the real servers: by what they would send back if they are this server.
type flight struct {
	id       uint16
	question dns.Question
}

// handle turns a packet into the answer's packet; nil means that none is sent. over is "udp" or "tcp". local is set when
// the answer must not wait for anyone else: then a packet that must be forwarded gives (nil, false).
func (s *Server) handle(ctx context.Context, packet []byte, over string, local bool) (reply []byte, done bool) {
	if len(packet) < headerLen || packet[2]&0x80 != 0 { // an answer; two servers must not talk to each other for ever
		return nil, true
	}
	q := new(dns.Msg)
	if questionEnd(packet) == 0 || q.Unpack(packet) != nil || len(q.Question) != 1 {
		return failure(packet, dns.RcodeFormatError), true
	}
	limit := dns.MaxMsgSize
	if over == "udp" {
		limit = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			limit = min(max(limit, int(opt.UDPSize())), maxReply)
		}
	}
	if m, ok := s.names.Load().answer(q); ok {
		m.Compress = true
		m.Truncate(limit)
		b, err := m.Pack()
		if err != nil {
			return failure(packet, dns.RcodeServerFailure), true
		}
		return b, true
	}
	switch q.Question[0].Qtype {
	case dns.TypeAXFR, dns.TypeIXFR: // answered in many messages
		return failure(packet, dns.RcodeNotImplemented), true
	}
	if local {
		return nil, false
	}
	return s.forward(ctx, packet, q, over, limit), true
}

// forward asks the real servers, byte for byte but for the ID.
func (s *Server) forward(ctx context.Context, packet []byte, q *dns.Msg, over string, limit int) []byte {
	f := flight{id: q.Id, question: q.Question[0]}
	if _, loop := s.flights.Load(f); loop {
		s.loopOnce.Do(func() {
			s.opt.Log.Warn("the DNS server to forward to is this process itself; name another with --resolver")
		})
		return failure(packet, dns.RcodeServerFailure)
	}
	out := append([]byte(nil), packet...)
	for {
		f.id = uint16(rand.Uint32())
		if _, taken := s.flights.LoadOrStore(f, struct{}{}); !taken {
			break
		}
	}
	defer s.flights.Delete(f)
	binary.BigEndian.PutUint16(out, f.id)
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	reply, err := s.opt.Upstream.Forward(ctx, out, over)
	if err != nil || len(reply) < headerLen {
		s.opt.Log.Debug("DNS query not answered", slog.String("name", q.Question[0].Name), slog.Any("err", err))
		return failure(packet, dns.RcodeServerFailure)
	}
	copy(reply, packet[:2])
	if len(reply) > limit {
		reply = truncated(packet, reply)
	}
	return reply
}

// truncated says that there is an answer and it does not fit: its header with TC, and the question (RFC 2181 §9).
func truncated(query, reply []byte) []byte {
	b := failure(query, int(reply[3]&0xf))
	b[2], b[3] = reply[2]|0x02, reply[3]
	return b
}

// failure answers a packet of at least a header with an error: the query's ID, opcode, RD, and its question if that can
// be read.
func failure(packet []byte, rcode int) []byte {
	b := make([]byte, headerLen, 64)
	copy(b, packet[:2])
	b[2] = 0x80 | packet[2]&0x79 // QR, opcode, RD
	b[3] = 0x80 | byte(rcode&0xf)
	if end := questionEnd(packet); end > 0 {
		b = append(b, packet[headerLen:end]...)
		b[5] = 1
	}
	return b
}

// questionEnd gives the offset behind a packet's only question, 0 if it has another number of them or one that is not
// whole. A name in compressed form (there is nothing before it to point to) is not one either.
func questionEnd(packet []byte) int {
	if binary.BigEndian.Uint16(packet[4:]) != 1 {
		return 0
	}
	off := headerLen
	for off < len(packet) && packet[off] != 0 {
		if packet[off]&0xc0 != 0 {
			return 0
		}
		off += int(packet[off]) + 1
	}
	if off += 5; off > len(packet) || off-4-headerLen > 255 {
		return 0
	}
	return off
}
