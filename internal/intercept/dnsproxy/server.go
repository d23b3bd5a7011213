// Package dnsproxy owns the DNS server that captured applications ask: it answers for the configuration's hosts with the
// addresses by which their connections are captured, and forwards every other query, unchanged, to the real servers.
package dnsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"detour.dev/detour/internal/xds"
	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// maxForwards bounds the queries that wait for the real servers; further ones get SERVFAIL at once. It is also what
	// ends a loop through a third server that asks us.
	maxForwards = 512
	// maxConns bounds the TCP connections; further ones are closed at once.
	maxConns = 256
	// forwardTimeout is when a forward is given up. Stub resolvers wait 5 s and ask again (resolv.conf(5)).
	forwardTimeout = 10 * time.Second
	// idleTimeout closes TCP connections without a query (RFC 7766 §6.2.3).
	idleTimeout = 10 * time.Second
)

// Upstream asks the real servers; *dns.Resolver is one. The network is that of the client: with "tcp" a truncated answer
// is of no use. The answer has the ID of the query and belongs to the caller.
type Upstream interface {
	Forward(ctx context.Context, query []byte, network string) ([]byte, error)
}

// Options make a Server.
type Options struct {
	Upstream Upstream
	Log      *slog.Logger // nil: slog.Default()
}

// Server is the DNS proxy. All methods are safe for concurrent use.
type Server struct {
	opt      Options
	names    atomic.Pointer[table]
	flights  sync.Map // of flight
	forwards chan struct{}
	conns    chan struct{}
	loopOnce sync.Once
	ctx      context.Context // ends when draining is over
	cancel   context.CancelFunc
	wg       sync.WaitGroup // of all goroutines

	mu       sync.Mutex
	draining bool
	packets  map[net.PacketConn]struct{}
	streams  map[io.Closer]func() // listeners and connections, with how to stop them from taking more
}

// New makes a server that knows no names.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	s := &Server{opt: opt, forwards: make(chan struct{}, maxForwards), conns: make(chan struct{}, maxConns),
		packets: make(map[net.PacketConn]struct{}), streams: make(map[io.Closer]func())}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.names.Store(newTable(nil))
	return s
}

// SetNames replaces the names that are answered, for all queries that arrive from now on. The slice is kept, and nobody may
// change it: given again, it costs nothing. It is not called twice at once.
func (s *Server) SetNames(names []xds.Name) {
	if last := s.names.Load(); last != nil && len(names) > 0 && len(names) == len(last.from) && &names[0] == &last.from[0] {
		return
	}
	s.names.Store(newTable(names))
}

// Serve answers on the sockets in the background until Shutdown, and owns them from then on. They may belong to another
// network namespace than the upstream's. After Shutdown it closes them at once.
func (s *Server) Serve(packets []net.PacketConn, listeners []net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pc := range packets {
		if s.draining {
			pc.Close()
			continue
		}
		s.packets[pc] = struct{}{}
		s.wg.Go(func() { s.servePackets(pc) })
	}
	for _, ln := range listeners {
		if s.draining {
			ln.Close()
			continue
		}
		s.streams[ln] = func() { ln.Close() }
		s.wg.Go(func() { s.accept(ln) })
	}
}

// Shutdown takes no more queries, waits until those under way are answered or ctx ends, and closes all sockets.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	for pc := range s.packets {
		pc.SetReadDeadline(time.Unix(1, 0))
	}
	for _, stop := range s.streams {
		stop()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.cancel()
	s.mu.Lock()
	for pc := range s.packets {
		pc.Close()
	}
	for c := range s.streams {
		c.Close()
	}
	s.mu.Unlock()
	<-done
	return err
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// packetIO reads and answers datagrams. On UDP sockets the answer comes from the address that was asked, which the kernel
// would choose otherwise when the socket is bound to all.
type packetIO struct {
	pc  net.PacketConn
	udp *net.UDPConn
}

func newPacketIO(pc net.PacketConn) packetIO {
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		return packetIO{pc: pc}
	}
	err4 := ipv4.NewPacketConn(udp).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	err6 := ipv6.NewPacketConn(udp).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	if err4 != nil && err6 != nil { // then the kernel chooses
		return packetIO{pc: pc}
	}
	return packetIO{pc, udp}
}

func (p packetIO) read(b []byte) (int, func([]byte), error) {
	if p.udp == nil {
		n, from, err := p.pc.ReadFrom(b)
		return n, func(b []byte) { p.pc.WriteTo(b, from) }, err
	}
	n, session, err := dns.ReadFromSessionUDP(p.udp, b)
	return n, func(b []byte) { dns.WriteToSessionUDP(p.udp, b, session) }, err
}

// servePackets answers from the table in its own goroutine, and gives each forward one. A reply that can't be sent is
// lost, as datagrams are.
func (s *Server) servePackets(pc net.PacketConn) {
	p := newPacketIO(pc)
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, send, err := p.read(buf)
		if s.isDraining() || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // ICMP errors of earlier answers among them
			if !s.pause() {
				return
			}
			continue
		}
		reply, done := s.handle(s.ctx, buf[:n], "udp", true)
		if !done {
			s.forwardPacket(append([]byte(nil), buf[:n]...), send)
		} else if reply != nil {
			send(reply)
		}
	}
}

func (s *Server) forwardPacket(packet []byte, send func([]byte)) {
	select {
	case s.forwards <- struct{}{}:
	default:
		send(failure(packet, dns.RcodeServerFailure))
		return
	}
	s.wg.Go(func() {
		defer func() { <-s.forwards }()
		if reply, _ := s.handle(s.ctx, packet, "udp", false); reply != nil {
			send(reply)
		}
	})
}

// pause waits a moment after an error that may persist, and reports whether to go on.
func (s *Server) pause() bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(5 * time.Millisecond):
		return !s.isDraining()
	}
}

func (s *Server) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if s.isDraining() || errors.Is(err, net.ErrClosed) {
			if err == nil {
				c.Close()
			}
			return
		}
		if err != nil { // out of file descriptors, say
			if !s.pause() {
				return
			}
			continue
		}
		select {
		case s.conns <- struct{}{}:
			s.wg.Go(func() {
				defer func() { <-s.conns }()
				s.serveConn(c)
			})
		default:
			c.Close()
		}
	}
}

// serveConn answers a connection's queries in turn.
func (s *Server) serveConn(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return
	}
	s.streams[c] = func() { c.SetReadDeadline(time.Unix(1, 0)) }
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, c)
		s.mu.Unlock()
	}()
	for {
		packet, err := s.readStream(c)
		if err != nil {
			return
		}
		reply := s.handleStream(packet)
		if reply == nil { // not DNS
			return
		}
		c.SetWriteDeadline(time.Now().Add(idleTimeout))
		out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply)))
		if _, err := c.Write(append(out, reply...)); err != nil {
			return
		}
	}
}

// readStream reads one query. The deadline is set under the lock, so that it can't undo that of Shutdown.
func (s *Server) readStream(c net.Conn) ([]byte, error) {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return nil, net.ErrClosed
	}
	c.SetReadDeadline(time.Now().Add(idleTimeout))
	s.mu.Unlock()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	packet := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, packet)
	return packet, err
}

func (s *Server) handleStream(packet []byte) []byte {
	reply, done := s.handle(s.ctx, packet, "tcp", true)
	if done {
		return reply
	}
	select {
	case s.forwards <- struct{}{}:
		defer func() { <-s.forwards }()
	default:
		return failure(packet, dns.RcodeServerFailure)
	}
	reply, _ = s.handle(s.ctx, packet, "tcp", false)
	return reply
}
