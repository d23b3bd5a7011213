//go:build linux

package nft

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func ipv4(extra int) []byte {
	b := make([]byte, 24+extra)
	b[0], b[9] = 0x45+byte(extra/4), unix.IPPROTO_TCP
	copy(b[12:], []byte{127, 0, 0, 1, 127, 0, 0, 2})
	copy(b[20+extra:], []byte{0x12, 0x34, 0, 80})
	return b
}

func ipv6() []byte {
	b := make([]byte, 44)
	b[0], b[6], b[23], b[39] = 0x60, unix.IPPROTO_TCP, 1, 1
	copy(b[40:], []byte{0x12, 0x34, 0, 80})
	return b
}

func TestParseTCP(t *testing.T) {
	v4, v6 := "127.0.0.1:4660 127.0.0.2:80", "[::1]:4660 [::1]:80"
	udp := ipv4(0)
	udp[9] = unix.IPPROTO_UDP
	for _, test := range []struct {
		name   string
		packet []byte
		want   string
	}{
		{"IPv4", ipv4(0), v4},
		{"IPv4 with options", ipv4(8), v4},
		{"IPv6", ipv6(), v6},
		{"UDP", udp, ""},
		{"cut", ipv4(0)[:23], ""},
		{"cut IPv6", ipv6()[:43], ""},
		{"impossible header length", append([]byte{0x44}, ipv4(0)[1:]...), ""},
		{"empty", nil, ""},
		{"version 5", append([]byte{0x55}, ipv4(0)[1:]...), ""},
	} {
		from, to := parseTCP(test.packet)
		got := ""
		if from != (netip.AddrPort{}) {
			got = from.String() + " " + to.String()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// datagram is what the kernel sends for one packet.
func datagram(id uint32, payload []byte) []byte {
	header := append(binary.BigEndian.AppendUint32(nil, id), 0x08, 0, 3)
	return message(msgPacket, 0, append(attribute(attrPacketHeader, header), attribute(attrPayload, payload)...))
}

func TestParsePackets(t *testing.T) {
	two := append(datagram(7, ipv4(0)), datagram(8, ipv6())...)
	got := parsePackets(two)
	if len(got) != 2 || got[0].ID != 7 || got[1].ID != 8 || got[1].Destination.Port() != 80 {
		t.Errorf("%+v", got)
	}
	if got := parsePackets(two[:len(two)-1]); len(got) != 1 {
		t.Errorf("of a cut datagram: %+v", got)
	}
}

func FuzzParsePackets(f *testing.F) {
	f.Add(datagram(1, ipv4(0)))
	f.Add(append(datagram(7, ipv4(4)), datagram(8, ipv6())...))
	f.Add([]byte{16, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(parsePackets(b)); n > len(b)/unix.NLMSG_HDRLEN {
			t.Errorf("%d packets in %d bytes", n, len(b))
		}
	})
}
