package dataplane

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/httpfilter/mirror"
	"detour.dev/detour/internal/dataplane/listener"
	"detour.dev/detour/internal/dataplane/networkfilter/hcm"
	"detour.dev/detour/internal/dataplane/networkfilter/tcpproxy"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
	"detour.dev/detour/internal/stats"
)

// worker is one event loop with everything that belongs to it.
type worker struct {
	p         *Plane
	d         *event.Dispatcher
	buffers   buffer.Pool
	trim      event.Timer // of buffers
	pools     *upstream.Pools
	mirrors   mirror.Mirrors
	listeners map[*event.Listener]bool
	own       map[listener.Own]*event.Listener // those of listeners' own sockets
	conns     map[closer]bool
	open      atomic.Int64
	lookups   int // of names that nothing declares
	httpStats map[string]*stats.HTTP
	tcpStats  map[string]*stats.TCP
}

// trimEvery is how often memory that the last burst needed, and nothing since, is halved.
const trimEvery = time.Second

type closer interface{ Close() }

func newWorker(p *Plane) (*worker, error) {
	d, err := event.New()
	if err != nil {
		return nil, err
	}
	w := &worker{p: p, d: d, listeners: map[*event.Listener]bool{}, own: map[listener.Own]*event.Listener{}, conns: map[closer]bool{},
		httpStats: map[string]*stats.HTTP{}, tcpStats: map[string]*stats.TCP{}}
	w.trim.Init(d, func() {
		if w.buffers.Trim() {
			w.trim.Schedule(trimEvery)
		}
	})
	w.buffers.Grown = func() {
		if !w.trim.Armed() {
			w.trim.Schedule(trimEvery)
		}
	}
	w.pools = &upstream.Pools{D: d, Buffers: &w.buffers, Clusters: p.Clusters, TLS: p.tls, Log: p.Log, Compat: p.Compat, Via: p.Via}
	w.mirrors.Pools = w.pools
	return w, nil
}

func (w *worker) random() uint64 {
	if w.p.Rand != nil {
		return w.p.Rand()
	}
	return rand.Uint64()
}

// Kind is what a listening socket's connections are.
type Kind uint8

// Kinds of listening sockets.
const (
	// Redirected connections were meant for somewhere else, which Options.OriginalDst tells.
	Redirected Kind = iota
	// ForwardProxy connections speak HTTP to a proxy.
	ForwardProxy
)

// String names the kind as the admin API shows it.
func (k Kind) String() string {
	if k == ForwardProxy {
		return "http_proxy"
	}
	return "virtualOutbound"
}

// Bound is a listening socket.
type Bound struct {
	Name string
	listener.Own
}

// Bound gives the sockets that Listen took over, and those that listeners have of their own.
func (p *Plane) Bound() []Bound {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.bound)
}

// Listen serves connections of a listening, non-blocking socket. It takes the descriptor over.
func (p *Plane) Listen(fd int, kind Kind) error {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	local := event.AddrPort(sa)
	p.mu.Lock()
	p.bound = append(p.bound, Bound{Name: kind.String(), Own: listener.Own{Addr: local}})
	p.mu.Unlock()
	for i, w := range p.workers {
		own := fd
		if i > 0 {
			if own, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				return err
			}
		}
		w.d.Post(func() { w.listen(own, kind, local) })
	}
	return nil
}

func (w *worker) listen(fd int, kind Kind, local netip.AddrPort) {
	if w.p.draining.Load() {
		unix.Close(fd)
		return
	}
	l, err := w.d.Listen(fd, func(fd int, peer netip.AddrPort) { w.accept(fd, peer, kind, local) }, w.p.acceptFailed)
	if err != nil {
		w.p.Log.Error("listener failed", "address", local, "error", err)
		return
	}
	w.listeners[l] = true
}

// acceptFailedEvery is how often it is said that connections can't be accepted.
const acceptFailedEvery = 10 * time.Second

// acceptFailed hears that no connection can be accepted for now. Where descriptors are short, idle connections to
// endpoints and idle pipes give theirs back.
func (p *Plane) acceptFailed(err error) {
	p.Stats.Detour().ListenerErrors.Inc()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		p.closeAllIdle()
		for _, w := range p.workers {
			w.d.Post(w.d.DropPipes)
		}
	}
	now, last := time.Now().UnixNano(), p.acceptSaid.Load()
	if now-last < int64(acceptFailedEvery) || !p.acceptSaid.CompareAndSwap(last, now) {
		return
	}
	p.Log.Warn("connections can't be accepted for now; the fault is here", "error", err)
}

// inbound is a client's connection, or what came out of a CONNECT, before it is known what takes it.
type inbound struct {
	s      event.Stream
	remote netip.AddrPort
	local  netip.AddrPort
	dst    netip.AddrPort // where the application wanted to go; its address may be invalid where only name is known
	name   string         // host of a CONNECT
	own    bool           // accepted on a socket of a listener's own: there is no dst
	path   string         // of that socket
	early  []byte
	// declared says that dst belongs to a declared host.
	declared bool
}

// facts are what is known of a connection before its first bytes.
func (in *inbound) facts() listener.Facts {
	if in.own {
		return listener.Facts{Dst: in.local}
	}
	return listener.Facts{Dst: in.dst}
}

// port is the one that the application connected to; 0 for a Unix socket.
func (in *inbound) port() uint16 { return in.facts().Dst.Port() }

func (w *worker) accept(fd int, peer netip.AddrPort, kind Kind, local netip.AddrPort) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	var dst netip.AddrPort
	if kind == Redirected {
		var err error
		if dst, err = w.p.OriginalDst(fd); err != nil || dst == local {
			if err == nil {
				err = errors.New("the connection was not redirected")
			}
			w.p.Log.Debug("connection refused", "listener", local, "peer", peer, "error", err)
			unix.Close(fd)
			return
		}
	}
	s, err := w.d.NewSocket(fd, idleHandler{})
	if err != nil {
		w.p.Log.Warn("a connection could not be watched; the fault is here", "error", err)
		return
	}
	in := &inbound{s: s, remote: peer, local: local, dst: dst}
	if kind == ForwardProxy {
		w.serveHTTP(in, httpEntry{stat: "http_proxy", proxy: true, port: 80, idle: listener.StreamIdle})
		return
	}
	w.dispatch(in)
}

// idleHandler stands in until a connection has an owner.
type idleHandler struct{}

func (idleHandler) OnEvent(bool, bool) {}

type httpEntry struct {
	stat   string
	routes string // name of the RouteConfiguration; "" on the forward proxy, where the port decides
	proxy  bool
	port   uint16
	idle   time.Duration // stream_idle_timeout; 0: none
}

func (w *worker) serveHTTP(in *inbound, e httpEntry) {
	w.open.Add(1)
	env := &httpEnv{w: w, in: in, entry: e}
	c := hcm.Serve(in.s, in.early, hcm.Options{Env: env, D: w.d, Buffers: &w.buffers, Pools: w.pools, Mirrors: &w.mirrors, Stats: w.http(e.stat),
		Remote: in.remote, Local: in.local, Path: in.path, OriginalDst: in.dst, Port: e.port, StreamIdle: e.idle, Proxy: e.proxy, Rand: w.p.Rand})
	if !env.closed {
		w.conns[c] = true
	}
}

func (w *worker) http(prefix string) *stats.HTTP {
	prefix = strings.TrimSuffix(prefix, ";")
	s := w.httpStats[prefix]
	if s == nil {
		s = w.p.Stats.HTTP(prefix)
		w.httpStats[prefix] = s
	}
	return s
}

func (w *worker) tcp(prefix string) *stats.TCP {
	prefix = strings.TrimSuffix(prefix, ";")
	s := w.tcpStats[prefix]
	if s == nil {
		s = w.p.Stats.TCP(prefix)
		w.tcpStats[prefix] = s
	}
	return s
}

// proxyTCP relays a connection, which stays in the worker's books until it has ended.
func (w *worker) proxyTCP(in *inbound, o tcpproxy.Options) {
	w.open.Add(1)
	o.D, o.Buffers, o.Pools = w.d, &w.buffers, w.pools
	if o.Info == nil {
		o.Info = &streaminfo.Info{}
	}
	i := o.Info
	i.Start = w.d.Now()
	i.DownstreamRemote, i.DownstreamLocal, i.OriginalDst = in.remote, in.local, in.dst
	i.Cluster = o.Cluster.Name()
	ended := false
	o.Done = func(p *tcpproxy.Proxy) {
		ended = true
		delete(w.conns, p)
		w.open.Add(-1)
		if w.p.AccessLog != nil {
			w.p.AccessLog(i)
		}
	}
	if p := tcpproxy.Start(in.s, in.early, o); !ended {
		w.conns[p] = true
	}
}

func (w *worker) drain() {
	for l := range w.listeners {
		l.Finish()
	}
	clear(w.listeners)
	for c := range w.conns {
		if h, ok := c.(*hcm.Conn); ok {
			h.Drain()
		}
	}
	w.pools.CloseAllIdle()
}

func (w *worker) closeAll() {
	w.drain()
	for c := range w.conns {
		c.Close()
	}
	w.mirrors.Close()
	w.pools.Stop()
}
