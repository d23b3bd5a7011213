package intercept

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"detour.dev/detour/internal/intercept/nft"
)

// Loopback decides where COMMAND's connections to loopback go. The first packet of each waits until it is known whether
// COMMAND listens there, else whether the host does: what nobody listens on is refused by the kernel as ever, since
// the packet just goes on. A port on which COMMAND has once been seen listening is never the host's again.
type Loopback struct {
	cfg   LoopbackConfig
	queue *nft.Queue
	wg    sync.WaitGroup
	quit  chan struct{}

	mu      sync.Mutex
	owned   map[uint16]bool
	told    map[uint16]bool
	waiting map[netip.AddrPort]*pending // by COMMAND's end of the connection
	conns   map[net.Conn]struct{}       // nil once closed
}

// pending is a connection whose first packet waits or has just been let through.
type pending struct {
	id    uint32
	host  *net.TCPConn // nil while dialling
	timer *time.Timer
}

const (
	// pollTime bounds how long COMMAND may listen on a port unseen; connections to it are seen at once.
	pollTime = 250 * time.Millisecond
	// hostTime bounds the connection to the host's loopback; it is a firewall that makes it wait.
	hostTime = 5 * time.Second
	// claimTime bounds how long a connection to the host waits for COMMAND's.
	claimTime = 5 * time.Second
	// maxWaiting bounds the connections on their way; the kernel's queue holds 1024 packets.
	maxWaiting = 1024
)

// NewLoopback starts deciding; Close ends it and every connection.
func NewLoopback(cfg LoopbackConfig) *Loopback {
	l := &Loopback{
		cfg:     cfg,
		queue:   nft.NewQueue(cfg.Queue),
		quit:    make(chan struct{}),
		owned:   map[uint16]bool{},
		told:    map[uint16]bool{},
		waiting: map[netip.AddrPort]*pending{},
		conns:   map[net.Conn]struct{}{},
	}
	l.wg.Go(l.read)
	l.wg.Go(l.poll)
	for _, listener := range cfg.Listeners {
		l.wg.Go(func() { l.accept(listener) })
	}
	return l
}

// Close returns when nothing of it runs any more.
func (l *Loopback) Close() error {
	close(l.quit)
	err := l.queue.Close()
	for _, listener := range l.cfg.Listeners {
		listener.Close()
	}
	l.mu.Lock()
	for c := range l.conns {
		c.Close()
	}
	l.conns = nil
	for from, p := range l.waiting {
		l.forget(from, p)
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

// poll notices ports that COMMAND listens on without ever connecting to them while it does.
func (l *Loopback) poll() {
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		select {
		case <-l.quit:
			return
		case <-tick.C:
			l.refresh()
		}
	}
}

func (l *Loopback) refresh() {
	ports, err := l.cfg.Listening()
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for port := range ports {
		l.owned[port] = true
	}
}

func (l *Loopback) read() {
	for {
		packets, err := l.queue.Next()
		if err != nil {
			return
		}
		l.refresh() // after the packets came: whoever listened before it connected is seen
		for _, p := range packets {
			l.decide(p)
		}
	}
}

// decide lets a packet stay inside at once, or looks at the host first.
func (l *Loopback) decide(p nft.Packet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.waiting[p.Source]
	switch {
	case known != nil && known.host == nil: // sent again while the host is being asked; the older copy is not needed
		known.id, p.ID = p.ID, known.id
		_ = l.queue.Drop(p.ID)
	case known != nil:
		_ = l.queue.Accept(p.ID, nft.MarkHost)
	case !p.Destination.IsValid() || l.owned[p.Destination.Port()] || len(l.waiting) >= maxWaiting || l.conns == nil:
		_ = l.queue.Accept(p.ID, 0)
	default:
		waiting := &pending{id: p.ID}
		l.waiting[p.Source] = waiting
		l.wg.Go(func() { l.ask(p, waiting) })
	}
}

// ask connects to the host's loopback. Refused there, the packet stays inside and is refused there too.
func (l *Loopback) ask(p nft.Packet, waiting *pending) {
	ctx, cancel := context.WithTimeout(context.Background(), hostTime)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-l.quit:
			cancel()
		case <-stop:
		}
	}()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", p.Destination.String())
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.conns == nil {
		if err == nil {
			c.Close()
		}
		delete(l.waiting, p.Source)
		_ = l.queue.Accept(waiting.id, 0)
		return
	}
	waiting.host = c.(*net.TCPConn)
	waiting.timer = time.AfterFunc(claimTime, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.waiting[p.Source] == waiting {
			l.forget(p.Source, waiting)
		}
	})
	if port := p.Destination.Port(); !l.told[port] {
		l.told[port] = true
		l.cfg.FellThrough(p.Destination)
	}
	_ = l.queue.Accept(waiting.id, nft.MarkHost)
}

// forget needs l.mu held.
func (l *Loopback) forget(from netip.AddrPort, p *pending) {
	delete(l.waiting, from)
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.host != nil {
		p.host.Close()
	}
}

// accept joins each connection of COMMAND with the one that was made for it.
func (l *Loopback) accept(listener net.Listener) {
	for {
		c, err := listener.Accept()
		if err != nil {
			if !temporary(err) {
				return
			}
			continue
		}
		inside := c.(*net.TCPConn)
		host := l.claim(inside)
		if host == nil {
			_ = inside.SetLinger(0)
			inside.Close()
			continue
		}
		l.wg.Go(func() {
			relay(inside, host)
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.conns, inside)
			delete(l.conns, host)
		})
	}
}

func (l *Loopback) claim(inside *net.TCPConn) *net.TCPConn {
	from := inside.RemoteAddr().(*net.TCPAddr).AddrPort()
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.waiting[from]
	if p == nil || p.host == nil || l.conns == nil {
		return nil
	}
	delete(l.waiting, from)
	p.timer.Stop()
	l.conns[inside], l.conns[p.host] = struct{}{}, struct{}{}
	return p.host
}
