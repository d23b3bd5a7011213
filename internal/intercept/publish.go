package intercept

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Publication is one -p: connections to Listen on the host go to Port inside.
type Publication struct {
	Listen string // host:port; the host's port 0 means any free one
	Port   uint16 // what COMMAND serves on its loopback, 1 to 65535
}

// ParsePublication understands PORT (127.0.0.1:PORT on the host, the same port inside), HOST:PORT (the same port on
// another address of the host), and HOSTPORT:PORT and HOST:HOSTPORT:PORT (another port on the host). IPv6 addresses
// stand in brackets.
func ParsePublication(s string) (Publication, error) {
	bad := fmt.Errorf("%q is not PORT, HOST:PORT, HOSTPORT:PORT or HOST:HOSTPORT:PORT", s)
	rest, last := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		rest, last = s[:i], s[i+1:]
	}
	port, ok := portNumber(last)
	if !ok || port == 0 || (rest == "" && strings.Contains(s, ":")) {
		return Publication{}, bad
	}
	host, hostPort := rest, port
	if n, ok := portNumber(rest); ok {
		host, hostPort = "", n
	} else if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		if hostPort, ok = portNumber(rest[i+1:]); !ok || i == 0 {
			return Publication{}, bad
		}
		host = rest[:i]
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return Publication{}, bad
		}
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return Publication{}, bad
		}
	} else if strings.ContainsAny(host, ":[]") {
		return Publication{}, bad
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return Publication{Listen: net.JoinHostPort(host, strconv.Itoa(int(hostPort))), Port: port}, nil
}

func portNumber(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil
}

// DialFunc connects inside COMMAND's network namespace.
type DialFunc func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

// Publisher relays connections of the host to COMMAND.
type Publisher struct {
	listener net.Listener
	port     uint16
	dial     DialFunc

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once closed
	wg    sync.WaitGroup
}

// insideTime bounds a connection attempt within the machine.
const insideTime = 5 * time.Second

// Publish listens on the host; Close ends it and every connection.
func (p Publication) Publish(dial DialFunc) (*Publisher, error) {
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return nil, err
	}
	pub := &Publisher{listener: l, port: p.Port, dial: dial, conns: map[net.Conn]struct{}{}}
	pub.wg.Go(pub.serve)
	return pub, nil
}

// Addr is where the host finds COMMAND's port.
func (p *Publisher) Addr() net.Addr { return p.listener.Addr() }

// Close returns when nothing of it runs any more.
func (p *Publisher) Close() error {
	err := p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

func (p *Publisher) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			if !temporary(err) {
				return
			}
			continue
		}
		if !p.hold(c) {
			c.Close()
			return
		}
		p.wg.Go(func() {
			p.enter(c.(*net.TCPConn))
			p.release(c)
		})
	}
}

// enter tries COMMAND's IPv4 loopback, then IPv6; where it serves neither, the caller is reset.
func (p *Publisher) enter(c *net.TCPConn) {
	ctx, cancel := context.WithTimeout(context.Background(), insideTime)
	defer cancel()
	for _, host := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		inside, err := p.dial(ctx, netip.AddrPortFrom(host, p.port))
		if err != nil {
			continue
		}
		if !p.hold(inside) {
			inside.Close()
			break
		}
		relay(c, inside.(*net.TCPConn))
		p.release(inside)
		return
	}
	_ = c.SetLinger(0)
	c.Close()
}

func (p *Publisher) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Publisher) release(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
