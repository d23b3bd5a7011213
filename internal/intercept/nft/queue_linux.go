package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Messages and attributes of linux/netfilter/nfnetlink_queue.h.
const (
	msgPacket  = unix.NFNL_SUBSYS_QUEUE << 8
	msgVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	msgConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2

	attrPacketHeader  = 1
	attrVerdictHeader = 2
	attrMark          = 3
	attrPayload       = 10

	attrConfigCommand = 1
	attrConfigParams  = 2

	commandBind = 1
	copyPacket  = 2

	verdictDrop   = 0
	verdictAccept = 1

	copyBytes = 256 // of a packet: enough for the IP header with options and the ports
)

// OpenQueue binds the queue of Install in the network namespace of the calling thread and gives its socket, which may
// be handed to another process of the same user.
func OpenQueue() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("nfnetlink socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, fmt.Errorf("nfnetlink bind: %w", err)
	}
	bind := attribute(attrConfigCommand, []byte{commandBind, 0, 0, 0})
	params := attribute(attrConfigParams, []byte{0, 0, copyBytes >> 8, copyBytes & 0xff, copyPacket})
	for _, attr := range [][]byte{bind, params} {
		if err = configure(fd, attr); err != nil {
			return -1, fmt.Errorf("nfnetlink queue: %w", err)
		}
	}
	return fd, nil
}

func configure(fd int, attr []byte) error {
	if err := unix.Send(fd, message(msgConfig, unix.NLM_F_ACK, attr), 0); err != nil {
		return err
	}
	// The kernel answers within the send.
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return errors.New("unexpected answer")
	}
	if errno := -int32(binary.NativeEndian.Uint32(buf[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// message frames attributes as one nfnetlink request for the queue.
func message(kind uint16, flags uint16, attrs []byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN+4, unix.NLMSG_HDRLEN+4+len(attrs))
	b = append(b, attrs...)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	binary.BigEndian.PutUint16(b[unix.NLMSG_HDRLEN+2:], queueNumber)
	return b
}

func attribute(kind uint16, data []byte) []byte {
	b := make([]byte, (4+len(data)+3)&^3)
	binary.NativeEndian.PutUint16(b[0:], uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	copy(b[4:], data)
	return b
}

// Packet is the first packet of a connection to loopback, waiting for Accept or Drop.
type Packet struct {
	ID                  uint32
	Source, Destination netip.AddrPort
}

// Queue reads waiting packets. Accept and Drop may be called from any goroutine.
type Queue struct {
	file *os.File
	buf  []byte
	mu   sync.Mutex // orders writes
}

// NewQueue takes over a socket of OpenQueue.
func NewQueue(fd int) *Queue {
	return &Queue{file: os.NewFile(uintptr(fd), "nfnetlink"), buf: make([]byte, 64<<10)}
}

// Close wakes Next. Packets still waiting are dropped by the kernel.
func (q *Queue) Close() error { return q.file.Close() }

// Next gives the packets that arrived, at least one, or os.ErrClosed.
func (q *Queue) Next() ([]Packet, error) {
	for {
		n, err := q.file.Read(q.buf)
		if errors.Is(err, unix.ENOBUFS) {
			continue // the sender's TCP asks again
		}
		if err != nil {
			return nil, err
		}
		if packets := parsePackets(q.buf[:n]); len(packets) > 0 {
			return packets, nil
		}
	}
}

// Accept lets a packet go on its way, with a mark unless it is 0.
func (q *Queue) Accept(id, mark uint32) error { return q.verdict(verdictAccept, id, mark) }

// Drop takes a packet away without an answer.
func (q *Queue) Drop(id uint32) error { return q.verdict(verdictDrop, id, 0) }

func (q *Queue) verdict(verdict, id, mark uint32) error {
	header := make([]byte, 8)
	binary.BigEndian.PutUint32(header[0:], verdict)
	binary.BigEndian.PutUint32(header[4:], id)
	attrs := attribute(attrVerdictHeader, header)
	if mark != 0 {
		attrs = append(attrs, attribute(attrMark, binary.BigEndian.AppendUint32(nil, mark))...)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, err := q.file.Write(message(msgVerdict, 0, attrs))
	return err
}

// parsePackets reads a datagram of netlink messages; what it does not know it passes over.
func parsePackets(b []byte) []Packet {
	var packets []Packet
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return packets
		}
		if binary.NativeEndian.Uint16(b[4:]) == msgPacket && size >= unix.NLMSG_HDRLEN+4 {
			if p, ok := parsePacket(b[unix.NLMSG_HDRLEN+4 : size]); ok {
				packets = append(packets, p)
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return packets
}

func parsePacket(attrs []byte) (p Packet, ok bool) {
	var header bool
	for len(attrs) >= 4 {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			return p, false
		}
		data := attrs[4:size]
		switch binary.NativeEndian.Uint16(attrs[2:]) & 0x3fff {
		case attrPacketHeader:
			if len(data) >= 4 {
				p.ID, header = binary.BigEndian.Uint32(data), true
			}
		case attrPayload:
			p.Source, p.Destination = parseTCP(data)
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return p, header
}

// parseTCP reads both ends out of an IP packet; invalid addresses if it is none that it knows. Extension headers of
// IPv6 are not followed: no TCP of the kernel's own sends a SYN with one unless a program with privileges asks for it.
func parseTCP(b []byte) (source, destination netip.AddrPort) {
	if len(b) < 20 {
		return
	}
	var from, to netip.Addr
	var rest []byte
	switch b[0] >> 4 {
	case 4:
		head := int(b[0]&15) * 4
		if head < 20 || len(b) < head+4 || b[9] != unix.IPPROTO_TCP {
			return
		}
		from, to, rest = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[head:]
	case 6:
		if len(b) < 44 || b[6] != unix.IPPROTO_TCP {
			return
		}
		from, to, rest = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:]
	default:
		return
	}
	return netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:]))
}
