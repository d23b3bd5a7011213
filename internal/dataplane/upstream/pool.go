package upstream

import (
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
)

// forgetDead is how long the end of a silent endpoint's last connection is remembered.
const forgetDead = 10 * time.Second

// maxIdlePerHost bounds what one worker keeps for one endpoint.
const maxIdlePerHost = 1024

// Pools holds one worker's connections to all endpoints.
type Pools struct {
	D        *event.Dispatcher
	Buffers  *buffer.Pool
	Clusters *cluster.Manager
	TLS      *TLSContexts
	Log      *slog.Logger
	// Compat turns guarantees E2 and E3 off (proxy --compat envoy).
	Compat bool
	// Via is the forward proxy that detour's own connections must take, nil for none.
	Via *ForwardProxy
	// Peers are the pools of all workers, set on the loop before any connection. One that serves alone needs none.
	Peers []*Pools

	hosts   map[*lb.Host]*hostPool
	dialing map[*Dial]struct{}
	queued  map[*cluster.Breaker][]Queued // requests without a connection, in order
	places  map[*cluster.Breaker]int      // among the clusters' connections that are this worker's
	wishes  map[*cluster.Breaker]*cluster.Wish
	grant   *cluster.Breaker                      // a place there was just handed over
	serving map[netip.AddrPort]map[*Conn]struct{} // connections that were introduced as a client's
	peek    [1]byte
}

type hostPool struct {
	idle      []*Conn
	dials     int // connections being made
	open      int // established, idle or in use
	probing   bool
	lastProbe time.Time
	deadAt    time.Time    // when a connection attempt last ended in silence
	again     *event.Timer // asks a silent endpoint again
	deaf      bool         // what went unanswered was a ClientHello,
	deafTo    string       // for this name
}

func (p *Pools) host(h *lb.Host) *hostPool {
	hp := p.hosts[h]
	if hp == nil {
		if p.hosts == nil {
			p.hosts = map[*lb.Host]*hostPool{}
		}
		hp = &hostPool{}
		p.hosts[h] = hp
	}
	return hp
}

// forget drops the bookkeeping of a host that has no connection left.
func (p *Pools) forget(h *lb.Host, hp *hostPool) {
	if hp.again != nil && hp.again.Armed() && hp.deaf {
		return
	}
	if hp.open == 0 && hp.dials == 0 && !hp.probing && p.D.Now().Sub(hp.deadAt) > forgetDead {
		delete(p.hosts, h)
	}
}

// Idle gives an idle connection to the host that fits the cluster's settings, and was introduced as who's where they ask for
// that, or nil. The most recently used comes first, so that the rest can age out.
func (p *Pools) Idle(c *cluster.Cluster, h *lb.Host, sni string, who client) *Conn {
	hp := p.hosts[h]
	if hp == nil {
		return nil
	}
	cfg := c.Config()
	for i := len(hp.idle) - 1; i >= 0; i-- {
		conn := hp.idle[i]
		if cfg.ProxyProtocol != 0 && conn.client != who {
			continue
		}
		hp.idle = slices.Delete(hp.idle, i, i+1)
		conn.isIdle = false
		conn.idleFor.Stop()
		if conn.transport != cfg.PoolKey || conn.sni != sni || conn.Sock.PeerClosed() || p.worn(conn, cfg) {
			conn.Close()
			i = len(hp.idle)
			continue
		}
		conn.Cluster = c
		return conn
	}
	return nil
}

// Put keeps a connection whose last message ended cleanly for the next request.
func (p *Pools) Put(c *Conn) {
	hp := p.hosts[c.Host]
	cfg := c.Cluster.Config()
	if c.closed || hp == nil || cfg.ProxyProtocol != 0 && !c.from.IsValid() || c.Host.Removed() || c.Host.Ejected() || c.Sock.PeerClosed() || p.worn(c, cfg) || len(hp.idle) >= maxIdlePerHost {
		c.Close()
		return
	}
	if c.counted && p.wished(c.Cluster.Breaker()) {
		c.Close()
		return
	}
	// Bytes behind the answer, of which there will be no further event, would be taken for the next one.
	if _, err := c.Stream.Read(p.peek[:]); err != event.ErrAgain {
		c.Close()
		return
	}
	c.In.Release()
	c.isIdle = true
	c.Stream.SetHandler(c)
	if idle := cfg.HTTP.IdleTimeout; idle > 0 {
		c.idleFor.Schedule(idle)
	}
	hp.idle = append(hp.idle, c)
	p.wake(c.Cluster)
}

func (p *Pools) worn(c *Conn, cfg *cluster.Config) bool {
	if cfg.HTTP.MaxRequests > 0 && c.requests >= cfg.HTTP.MaxRequests {
		return true
	}
	return cfg.HTTP.MaxDuration > 0 && p.D.Now().Sub(c.made) >= cfg.HTTP.MaxDuration
}

func (p *Pools) removeIdle(c *Conn) {
	hp := p.hosts[c.Host]
	if i := slices.Index(hp.idle, c); i >= 0 {
		hp.idle = slices.Delete(hp.idle, i, i+1)
	}
	c.isIdle = false
}

func (p *Pools) gone(c *Conn) {
	if hp := p.hosts[c.Host]; hp != nil {
		if c.isIdle {
			p.removeIdle(c)
		}
		hp.open--
		p.forget(c.Host, hp)
	}
}

// CloseIdle closes the idle connections to one host: it was ejected, or has left the configuration.
func (p *Pools) CloseIdle(h *lb.Host) {
	hp := p.hosts[h]
	if hp == nil {
		return
	}
	idle := hp.idle
	hp.idle = nil
	for _, c := range idle {
		c.isIdle = false
		c.Close()
	}
}

// CloseAllIdle closes all idle connections: the network changed, or the worker stops.
func (p *Pools) CloseAllIdle() {
	for h := range p.hosts {
		p.CloseIdle(h)
	}
}

// Stop ends all attempts under way without a judgement, and closes the idle connections. For the worker's end, after that
// of all requests.
func (p *Pools) Stop() {
	for d := range p.dialing {
		d.cancel()
	}
	p.CloseAllIdle()
}
