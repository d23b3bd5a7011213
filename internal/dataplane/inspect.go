package dataplane

import (
	"cmp"
	"io"
	"net/netip"
	"time"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/listener"
	"detour.dev/detour/internal/dataplane/listenerfilter/httpinspector"
	"detour.dev/detour/internal/dataplane/listenerfilter/tlsinspector"
	"detour.dev/detour/internal/dataplane/networkfilter/tcpproxy"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/xds"
)

// Times that a connection's first bytes may take.
const (
	// peekUndeclared bounds the look at connections to addresses that nobody declared: a server-first protocol waits
	// for it.
	peekUndeclared = 50 * time.Millisecond
	// peekDeclared bounds the wait for the ClientHello on a declared TLS port; then the address alone decides.
	peekDeclared = 15 * time.Second
	// sniffForever bounds the wait for the first bytes on a port without protocol, where the configuration sets no bound:
	// as long as an HTTP connection may be idle.
	sniffForever = time.Hour
)

// Names of the clusters that istiod makes for what nothing declares.
const (
	passthroughCluster = "PassthroughCluster"
	blackHoleCluster   = "BlackHoleCluster"
	// lookupStat is what istiod calls the statistics of HTTP connections to ports that have no listener.
	lookupStat = "outbound_virtualOutbound_allow_any_dynamic_dns"
)

// dispatch decides what takes a connection (DESIGN.md, "What traffic is taken for").
func (w *worker) dispatch(in *inbound) {
	st := w.p.state.Load()
	l, exact := st.listeners.Find(in.dst)
	in.declared = exact || w.isDeclared(st, in, l) || st.elsewhere() != ""
	switch {
	case (l == nil || !in.declared) && st.looksUp():
		in.declared = false
		w.inspect(in, cmp.Or(l, noListener), peekUndeclared)
	case l == nil:
		w.undeclared(in, nil)
	case !in.declared && !l.Peek:
		w.undeclared(in, l)
	case !in.declared:
		w.inspect(in, l, peekUndeclared)
	default:
		w.dispatchTo(in, l)
	}
}

// noListener stands for the one that a port does not have.
var noListener = &listener.Config{}

// dispatchTo gives a connection to a listener that it is meant for, which may have to look at its first bytes.
func (w *worker) dispatchTo(in *inbound, l *listener.Config) {
	switch {
	case l.TLS:
		w.inspect(in, l, peekDeclared)
	case w.sniffs(l):
		w.inspect(in, l, cmp.Or(l.SniffTime, sniffForever))
	default:
		w.take(in, l.Chain(in.facts()), nil)
	}
}

// isDeclared tells whether a host that is declared has the address. For an Envoy there is no other: what no listener has
// alone belongs to that of all addresses of the port.
func (w *worker) isDeclared(st *state, in *inbound, l *listener.Config) bool {
	return in.name != "" || // Connect looked the name up
		st.isDeclared(in.dst.Addr()) || l != nil && (w.p.Compat || l.Takes(in.dst.Addr()))
}

// sniffs tells whether a connection's first bytes decide between HTTP and what is none: on a port that was declared
// without a protocol, whose default chain has a cluster of its own. A port that was declared as HTTP gets the codec, which
// refuses what is none; an Envoy lets it pass.
func (w *worker) sniffs(l *listener.Config) bool {
	return l.Sniff && (w.p.Compat || l.Fallback() != nil && l.Fallback().Cluster != passthroughCluster)
}

// undeclared handles a connection to where nothing is declared: it passes, or is refused where the policy says so. An
// allocated address is never dialled. Where a declared host speaks HTTP on the port, the refusal is one that HTTP clients
// understand.
func (w *worker) undeclared(in *inbound, l *listener.Config) {
	ours := isAllocated(in.dst.Addr())
	st := w.p.state.Load()
	if name := st.elsewhere(); name != "" {
		w.takeTCP(in, elsewhereChain(name), nil)
		return
	}
	only := st.registryOnly()
	if !only && !ours {
		w.passthrough(in, nil)
		return
	}
	w.p.Stats.Detour().RefusedCx.Inc()
	if l != nil && !ours {
		if ch := l.HTTPChain(); ch != nil {
			w.serveHTTP(in, httpEntry{stat: ch.StatPrefix, routes: ch.Routes, port: in.dst.Port(), idle: ch.StreamIdle})
			return
		}
	}
	w.p.Log.Debug("connection refused", "destination", in.dst, "registry_only", only)
	in.s.Abort()
}

// allocated are the ranges that hosts without addresses get theirs from (guarantee E6).
var allocated = []netip.Prefix{netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48")}

func isAllocated(a netip.Addr) bool { return allocated[0].Contains(a) || allocated[1].Contains(a) }

// elsewhereChain is the filter chain of connections that no listener takes, and that don't go where they wanted to go.
func elsewhereChain(cluster string) *listener.Chain {
	return &listener.Chain{StatPrefix: cluster, Cluster: cluster, Idle: time.Hour} // Envoy's default of tcp_proxy
}

// passthrough dials where the application wanted to go.
func (w *worker) passthrough(in *inbound, hello *tlsinspector.Hello) {
	c := w.p.state.Load().clusters[passthroughCluster]
	if c == nil {
		in.s.Abort()
		return
	}
	w.p.Stats.Detour().PassthroughCx.Inc()
	info := &streaminfo.Info{}
	if hello != nil {
		info.RequestedServerName = []byte(hello.ServerName)
	}
	w.proxyTCP(in, tcpproxy.Options{Cluster: c, Pick: lb.PickInfo{OriginalDst: in.dst}, Stats: w.tcp(passthroughCluster), Once: true, Info: info})
}

// take gives a connection to a filter chain.
func (w *worker) take(in *inbound, ch *listener.Chain, hello *tlsinspector.Hello) {
	switch {
	case ch == nil:
		in.s.Abort()
	case ch.Routes != "":
		w.serveHTTP(in, httpEntry{stat: ch.StatPrefix, routes: ch.Routes, port: in.port(), idle: ch.StreamIdle})
	case ch.Cluster == passthroughCluster:
		// The default chain: declared or not by its address, nothing is declared for what it carries.
		if isAllocated(in.dst.Addr()) || !in.dst.Addr().IsValid() {
			in.s.Abort()
			return
		}
		w.passthrough(in, hello)
	default:
		w.takeTCP(in, ch, hello)
	}
}

func (w *worker) takeTCP(in *inbound, ch *listener.Chain, hello *tlsinspector.Hello) {
	name := ch.To(w.random())
	c := w.p.state.Load().clusters[name]
	if c == nil || name == blackHoleCluster {
		in.s.Abort()
		return
	}
	o := w.tcpOptions(in, ch, c)
	if hello != nil {
		o.Info.RequestedServerName = []byte(hello.ServerName)
		o.Hello = !hello.EarlyData && hello.Len == len(in.early)
		o.HungUp = func(e *lb.Endpoint, sni string) { w.p.hungUp.report(w.p, name, e, sni) }
	}
	if c.Config().Type == cluster.DynamicDNS {
		w.proxyDynamic(in, ch, hello, o)
		return
	}
	w.proxyTCP(in, o)
}

// tcpOptions are those of a connection that a chain sends to a cluster.
func (w *worker) tcpOptions(in *inbound, ch *listener.Chain, c *cluster.Cluster) tcpproxy.Options {
	o := tcpproxy.Options{Cluster: c, Pick: lb.PickInfo{OriginalDst: in.facts().Dst, Source: in.remote, Own: in.own}, Stats: w.tcp(ch.StatPrefix),
		Idle: ch.Idle, MaxTime: ch.MaxTime, Info: &streaminfo.Info{}}
	if ch.HashSource && in.remote.IsValid() {
		o.Pick.Hash, o.Pick.HasHash = route.HashSource(in.remote.Addr()), true
	}
	return o
}

// proxyDynamic relays to the name of the ClientHello, once that is known (sni_dynamic_forward_proxy).
func (w *worker) proxyDynamic(in *inbound, ch *listener.Chain, hello *tlsinspector.Hello, o tcpproxy.Options) {
	if hello == nil || hello.ServerName == "" {
		in.s.Abort()
		return
	}
	o.Pick.Name = o.Cluster.DynamicKey(hello.ServerName, ch.DynamicPort)
	a := w.await(in, "")
	w.resolve(o.Cluster, o.Pick.Name, func(err error) {
		switch {
		case !a.end():
		case err != nil:
			in.s.Abort()
		default:
			w.proxyTCP(in, o)
		}
	})
}

// awaiting is a connection whose destination is being looked up.
type awaiting struct {
	w       *worker
	in      *inbound
	refusal string // goes to a client that ends its direction
	done    bool
}

// await takes a connection into the worker's books until end. A client that is reset meanwhile, or ends its direction, waits
// for nothing: its ClientHello, or its CONNECT, asks for more to be said. What was sent behind a CONNECT may be all.
func (w *worker) await(in *inbound, refusal string) *awaiting {
	a := &awaiting{w: w, in: in, refusal: refusal}
	w.open.Add(1)
	w.conns[a] = true
	in.s.SetHandler(a)
	in.s.Again()
	return a
}

// end says whether the client is still there.
func (a *awaiting) end() bool {
	if a.done {
		return false
	}
	a.done = true
	delete(a.w.conns, a)
	a.w.open.Add(-1)
	return true
}

// OnEvent implements event.Handler.
func (a *awaiting) OnEvent(readable, _ bool) {
	down, ok := a.in.s.(*event.Socket)
	switch {
	case !readable || !ok || !down.PeerClosed():
	case a.refusal == "" || down.Error() != nil:
		a.Close()
	case len(a.in.early) == 0:
		a.behind(down)
	}
}

// behind looks for what a client sent behind its CONNECT before it ended its direction.
func (a *awaiting) behind(down *event.Socket) {
	b := a.w.buffers.Get()
	defer a.w.buffers.Put(b)
	n, err := down.Read(b)
	a.in.early = append(a.in.early, b[:n]...)
	if err != nil && err != event.ErrAgain && a.end() {
		_, _ = down.Write([]byte(a.refusal))
		down.Close()
	}
}

// Close ends the connection from outside.
func (a *awaiting) Close() {
	if a.end() {
		a.in.s.Abort()
	}
}

// resolve makes a name known to a dynamic forward proxy cluster and calls back on the worker's loop.
func (w *worker) resolve(c *cluster.Cluster, key string, fn func(error)) {
	c.Resolve(key, func(err error) { w.d.Post(func() { fn(err) }) })
}

// inspector looks at the first bytes of one connection.
type inspector struct {
	w     *worker
	in    *inbound
	l     *listener.Config
	timer event.Timer
	done  bool
}

func (w *worker) inspect(in *inbound, l *listener.Config, limit time.Duration) {
	in.declared = in.declared || in.own
	i := &inspector{w: w, in: in, l: l}
	i.timer.Init(w.d, i.decideByAddress)
	w.open.Add(1)
	w.conns[i] = true
	in.s.SetHandler(i)
	if len(in.early) > 0 && i.look() {
		return
	}
	i.timer.Schedule(limit)
	in.s.Again()
}

// Close ends the connection from outside.
func (i *inspector) Close() {
	if !i.end() {
		i.in.s.Abort()
	}
}

// end says whether the inspection had ended before.
func (i *inspector) end() (before bool) {
	if i.done {
		return true
	}
	i.done = true
	i.timer.Stop()
	delete(i.w.conns, i)
	i.w.open.Add(-1)
	return false
}

// OnEvent implements event.Handler.
func (i *inspector) OnEvent(readable, _ bool) {
	if !readable || i.done {
		return
	}
	b := i.w.buffers.Get()
	defer i.w.buffers.Put(b)
	for !i.done {
		room := httpinspector.MaxLine - len(i.in.early)
		if room <= 0 {
			i.decideByAddress()
			return
		}
		n, err := i.in.s.Read(b[:min(room, len(b))])
		switch {
		case err == event.ErrAgain:
			return
		case err == io.EOF:
			i.decideByAddress()
			return
		case err != nil:
			i.Close()
			return
		}
		i.in.early = append(i.in.early, b[:n]...)
		if i.look() {
			return
		}
	}
}

// look decides if the bytes so far suffice.
func (i *inspector) look() bool {
	st := i.w.p.state.Load()
	hello, ok, err := tlsinspector.Parse(i.in.early)
	switch {
	case ok:
		i.decideTLS(st, &hello)
		return true
	case err == nil:
		return false
	case err != tlsinspector.ErrNotTLS:
		i.decideByAddress()
		return true
	case i.in.declared && i.w.sniffs(i.l):
		return i.sniff()
	case !i.in.declared && st.looksUp():
		return i.lookUp()
	case !i.l.HTTP:
		i.decideByAddress()
		return true
	}
	var h http1.Head
	n, err := http1.ParseRequest(i.in.early, &h)
	if err == nil && n == 0 {
		return false
	}
	i.decideHTTP(st, &h, err == nil)
	return true
}

// sniff decides by whether the bytes so far are HTTP, if they suffice.
func (i *inspector) sniff() bool {
	protocol, ok := httpinspector.Parse(i.in.early)
	if ok && !i.end() {
		f := i.in.facts()
		f.Protocol = protocol
		i.w.take(i.in, i.l.Chain(f), nil)
	}
	return ok
}

// lookUp decides about a connection that nothing declares by whether the bytes so far are HTTP, if they suffice: the names of
// requests, declared or not, say where they go.
func (i *inspector) lookUp() bool {
	protocol, ok := httpinspector.Parse(i.in.early)
	if !ok || i.end() {
		return ok
	}
	if protocol == httpinspector.None || protocol == httpinspector.H2C {
		i.w.undeclared(i.in, i.l)
		return true
	}
	entry := httpEntry{stat: lookupStat, port: i.in.dst.Port(), idle: listener.StreamIdle}
	if ch := i.l.HTTPChain(); ch != nil {
		entry.stat, entry.routes, entry.idle = ch.StatPrefix, ch.Routes, ch.StreamIdle
	}
	i.w.serveHTTP(i.in, entry)
	return true
}

func (i *inspector) decideTLS(st *state, hello *tlsinspector.Hello) {
	if i.end() {
		return
	}
	name := hello.ServerName
	if name == "" {
		name = i.in.name
	}
	f := i.in.facts()
	f.TLS, f.ServerName = true, name
	if !i.in.declared && !(i.l.Peek && i.l.Names(name)) {
		i.w.undeclared(i.in, nil)
		return
	}
	i.w.take(i.in, i.l.Chain(f), hello)
}

func (i *inspector) decideHTTP(st *state, h *http1.Head, valid bool) {
	if i.end() {
		return
	}
	ch := i.l.Chain(i.in.facts())
	if !i.in.declared {
		t := st.table(ch)
		if !valid || t == nil || !t.Declared(h.Authority) {
			i.w.undeclared(i.in, i.l)
			return
		}
	}
	i.w.take(i.in, ch, nil)
}

// decideByAddress goes on without the bytes' help: they did not come in time, or say nothing.
func (i *inspector) decideByAddress() {
	if i.end() {
		return
	}
	if !i.in.declared {
		i.w.undeclared(i.in, i.l)
		return
	}
	f := i.in.facts()
	f.ServerName = i.in.name
	if i.w.sniffs(i.l) {
		f.Protocol = httpinspector.None
	}
	i.w.take(i.in, i.l.Chain(f), nil)
}

var _ xds.Sink = (*Plane)(nil)
