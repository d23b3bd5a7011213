package dataplane

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/listener"
	"detour.dev/detour/internal/dataplane/networkfilter/hcm"
	"detour.dev/detour/internal/dataplane/networkfilter/tcpproxy"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/xds"
)

// lookupTimeout bounds the lookup of a name that nothing declares.
const lookupTimeout = 10 * time.Second

// maxLookups bounds how many requests of one worker wait for such lookups: Envoy's default for those that wait for its DNS
// cache. Only tests change it.
var maxLookups = 1024

// httpEnv is what one HTTP connection needs of its worker.
type httpEnv struct {
	w      *worker
	in     *inbound
	entry  httpEntry
	closed bool
	// dynamic is the dynamic forward proxy that the name being looked up belongs to; nil: it is an undeclared one.
	dynamic *cluster.Cluster
}

func (st *state) table(ch *listener.Chain) *route.Table {
	if ch == nil {
		return nil
	}
	return st.tables[ch.Routes]
}

// Decide implements hcm.Env.
func (e *httpEnv) Decide(c *hcm.Conn, req *http1.Head) hcm.Decision {
	st := e.w.p.state.Load()
	authority, port := req.Authority, e.entry.port
	var t *route.Table
	if e.entry.proxy {
		if http1.EqualFold(req.Scheme, "https") {
			return refusal(proxyerr.Reply{Status: 501, Body: "https:// needs CONNECT"})
		}
		port = route.Port(authority, port)
		var num [5]byte
		t = st.tables[string(strconv.AppendUint(num[:0], uint64(port), 10))]
	} else {
		t = st.tables[e.entry.routes]
	}
	if len(authority) == 0 {
		if e.entry.proxy {
			return refusal(proxyerr.Reply{Status: 400, Body: "Host missing"})
		}
		if dst := e.in.facts().Dst; dst.IsValid() {
			authority = []byte(dst.String())
		}
	}
	var rt *route.Route
	q := route.Query{Authority: authority, Path: req.Path, Head: req, Random: e.w.random()}
	if t != nil {
		rt = t.Match(&q)
	}
	if rt == nil && t != nil && !e.entry.proxy {
		return noRoute()
	}
	if rt == nil || rt.CatchAll {
		return e.undeclared(st, rt, authority, port)
	}
	d := e.toCluster(st, rt, authority)
	d.Random = q.Random
	return d
}

// Mirror implements hcm.Env.
func (e *httpEnv) Mirror(rt *route.Route, raw []byte) bool {
	c := e.w.p.state.Load().clusters[rt.Cluster]
	return c == nil || e.w.mirrors.Send(raw, rt, c, lb.PickInfo{OriginalDst: e.in.dst})
}

func (e *httpEnv) toCluster(st *state, rt *route.Route, authority []byte) hcm.Decision {
	e.dynamic = nil
	if rt.Direct != nil || rt.Redirect != nil {
		return hcm.Decision{Route: rt, Authority: authority}
	}
	c := st.clusters[rt.Cluster]
	if c == nil && st.unserved[rt.Cluster] {
		d := unserved(rt.Cluster)
		d.Route, d.Authority = rt, authority
		return d
	}
	if c == nil {
		e.w.http(e.entry.stat).NoCluster.Inc()
		err := &proxyerr.Error{Flags: streaminfo.NoClusterFound, Source: proxyerr.Config}
		if rt.MissingCluster != 0 {
			err.Reply = &proxyerr.Reply{Status: rt.MissingCluster}
		}
		return hcm.Decision{Route: rt, Authority: authority, Err: err}
	}
	d := hcm.Decision{Route: rt, Cluster: c, Pick: lb.PickInfo{OriginalDst: e.in.facts().Dst, Source: e.in.remote, Own: e.in.own}, Authority: authority}
	if c.Config().Type == cluster.DynamicDNS {
		d.Pick.Name = c.DynamicKey(string(authority), 0)
		d.Lookup, e.dynamic = d.Pick.Name, c
	}
	return d
}

func refusal(r proxyerr.Reply) hcm.Decision {
	return hcm.Decision{Err: &proxyerr.Error{Source: proxyerr.Downstream, Reply: &r}}
}

// unserved refuses a request for a cluster that the snapshot has and the engine can't serve.
func unserved(cluster string) hcm.Decision {
	return refusal(proxyerr.Reply{Status: 501, Body: "detour: not served: " + cluster + "\n"})
}

func noRoute() hcm.Decision {
	return hcm.Decision{Err: &proxyerr.Error{Flags: streaminfo.NoRouteFound, Source: proxyerr.Config}}
}

// passthroughRoute serves undeclared hosts: as they are, without a policy of anybody's. A pooled connection that was closed
// meanwhile must not show to an application that knows of none.
var passthroughRoute = &route.Route{Name: "allow_any", Cluster: passthroughCluster, CatchAll: true,
	Plain: true, Retry: route.Retry{Mode: route.RetryDefault}}

// lookupRoute serves undeclared hosts that are looked up.
var lookupRoute = &route.Route{Name: "allow_any_dynamic_dns", Cluster: xds.LookupCluster, CatchAll: true,
	Plain: true, Retry: route.Retry{Mode: route.RetryDefault}}

// undeclared decides about a Host that nothing declares.
func (e *httpEnv) undeclared(st *state, rt *route.Route, authority []byte, port uint16) hcm.Decision {
	p := e.w.p
	if st.registryOnly() || e.entry.proxy && p.ProxyDeclaredOnly {
		if rt != nil && rt.Direct != nil {
			return hcm.Decision{Route: rt}
		}
		return refusal(proxyerr.Reply{Status: 502})
	}
	if e.in.own {
		if rt == nil { // its routes went with a snapshot that came while the connection was open
			return noRoute()
		}
		return e.toCluster(st, rt, authority)
	}
	if name := st.elsewhere(); name != "" {
		if rt == nil { // nothing is declared on the port
			rt = &route.Route{Name: passthroughRoute.Name, Cluster: name, CatchAll: true, Plain: true, Retry: passthroughRoute.Retry}
		}
		return e.toCluster(st, rt, authority)
	}
	if st.looksUp() && (rt == nil || rt.Cluster == xds.LookupCluster) {
		if a, err := netip.ParseAddr(hostname(string(authority))); err == nil && isAllocated(a) {
			return noRoute()
		}
		return e.toCluster(st, lookupRoute, authority)
	}
	if !e.entry.proxy {
		if isAllocated(e.in.dst.Addr()) || !e.in.dst.Addr().IsValid() {
			return noRoute()
		}
		if rt == nil || rt.Cluster == passthroughCluster {
			rt = passthroughRoute
		}
		return e.toCluster(st, rt, authority)
	}
	d := e.toCluster(st, passthroughRoute, authority)
	d.Lookup, d.Port = hostname(string(authority)), port
	return d
}

// hostname cuts the port and an IPv6 address's brackets off an authority.
func hostname(authority string) string {
	if h, _, err := net.SplitHostPort(authority); err == nil {
		return h
	}
	return trimBrackets(authority)
}

// Lookup implements hcm.Env.
func (e *httpEnv) Lookup(name string, port uint16, fn func([]netip.AddrPort, *proxyerr.Error)) {
	if e.dynamic == nil {
		e.w.lookup(name, port, func(addrs []netip.AddrPort, err error) {
			if err != nil {
				fn(nil, lookupError(err, 502, "DNS resolution failed for "+name))
				return
			}
			if e.in.leadsBack(addrs[0]) {
				fn(nil, refusal(proxyerr.Reply{Status: 502, Body: "detour: " + name + " is the proxy itself\n"}).Err)
				return
			}
			fn(addrs, nil)
		})
		return
	}
	c := e.dynamic
	e.w.resolve(c, name, func(err error) {
		if err != nil && c.Config().Name == xds.LookupCluster {
			fn(nil, lookupError(err, 503, "DNS resolution failure"))
			return
		}
		if err != nil {
			// A dynamic forward proxy cluster without its filter: as one that has no endpoint.
			fn(nil, lookupError(err, 503, "no healthy upstream"))
			return
		}
		fn([]netip.AddrPort{{}}, nil) // the pick's name says where
	})
}

// lookupError is what a client is told whose destination could not be looked up; status and body where it has no address. The
// other texts are those of Envoy's dynamic forward proxy.
func lookupError(err error, status int, body string) *proxyerr.Error {
	e := &proxyerr.Error{Flags: streaminfo.DNSResolutionFailed, Cause: err, Reply: &proxyerr.Reply{Status: status, Body: body}}
	switch {
	case errors.Is(err, cluster.ErrPendingOverflow):
		e.Flags, e.Reply = streaminfo.UpstreamOverflow, &proxyerr.Reply{Status: 503, Body: "Dynamic forward proxy pending request overflow"}
	case errors.Is(err, lb.ErrOverflow):
		e.Flags, e.Reply = streaminfo.UpstreamOverflow, &proxyerr.Reply{Status: 503, Body: "DNS cache overflow"}
	}
	return e
}

// leadsBack says whether a connection to dst would come here again, without end. One that comes to another address of a
// listener for all is seen when it has come.
func (in *inbound) leadsBack(dst netip.AddrPort) bool {
	s, ok := in.s.(*event.Socket)
	return dst == in.local || ok && dst == s.LocalAddr()
}

var errNoAddress = errors.New("no address")

// lookup resolves a name that nothing declares, and calls back on the loop, with an address at least or an error. Who waits
// counts in the passthrough cluster's upstream_rq_pending_*.
func (w *worker) lookup(name string, port uint16, fn func([]netip.AddrPort, error)) {
	if a, err := netip.ParseAddr(name); err == nil {
		fn([]netip.AddrPort{netip.AddrPortFrom(a.Unmap(), port)}, nil)
		return
	}
	st := w.p.Stats.Cluster(passthroughCluster)
	switch {
	case w.p.Resolve == nil:
		fn(nil, errNoAddress)
		return
	case w.lookups >= maxLookups:
		st.UpstreamRqPendOver.Inc()
		fn(nil, cluster.ErrPendingOverflow)
		return
	}
	w.lookups++
	st.UpstreamRqPendTotal.Inc()
	st.UpstreamRqPendActive.Inc()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		addrs, err := w.p.Resolve(ctx, name)
		if err == nil && len(addrs) == 0 {
			err = errNoAddress
		}
		if err != nil {
			w.p.Log.Debug("lookup failed", "name", name, "error", err)
		}
		out := make([]netip.AddrPort, len(addrs))
		for i, a := range addrs {
			out[i] = netip.AddrPortFrom(a, port)
		}
		w.d.Post(func() {
			w.lookups--
			st.UpstreamRqPendActive.Dec()
			fn(out, err)
		})
	}()
}

// Connect implements hcm.Env: what is behind the CONNECT is treated as if the client had connected to the target itself.
func (e *httpEnv) Connect(c *hcm.Conn, s event.Stream, authority string, early []byte) *proxyerr.Error {
	host, portText, err := net.SplitHostPort(authority)
	port, perr := strconv.ParseUint(portText, 10, 16)
	if err != nil || perr != nil {
		return refusal(proxyerr.Reply{Status: 400, Body: "CONNECT needs HOST:PORT"}).Err
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	w, p := e.w, e.w.p
	in := &inbound{s: s, remote: e.in.remote, local: e.in.local, early: early}
	st := p.state.Load()
	if l := st.byName(host, uint16(port), in); l != nil {
		return w.connectDeclared(in, l)
	}
	if st.registryOnly() || p.ProxyDeclaredOnly {
		return refusal(proxyerr.Reply{Status: 502}).Err
	}
	if name := st.elsewhere(); name != "" {
		return w.connectTo(in, elsewhereChain(name), name)
	}
	a := w.await(in, connectRefusal)
	w.lookup(host, uint16(port), func(addrs []netip.AddrPort, _ error) {
		if a.end() {
			w.connectUndeclared(in, addrs)
		}
	})
	return nil
}

// byName finds the listener that serves a declared host on a port, and fills in where the connection counts as going. nil
// if nothing declares it.
func (st *state) byName(host string, port uint16, in *inbound) *listener.Config {
	var addrs []netip.Addr
	if st.names != nil {
		addrs = st.names.hosts[host]
	}
	if a, err := netip.ParseAddr(host); err == nil && st.isDeclared(a) {
		addrs = []netip.Addr{a}
	}
	for _, a := range addrs {
		dst := netip.AddrPortFrom(a, port)
		if l, exact := st.listeners.Find(dst); l != nil && (exact || st.serves(l, host, dst)) {
			in.dst, in.name = dst, host
			return l
		}
	}
	return nil
}

// serves says whether a listener for all addresses of a port has the host.
func (st *state) serves(l *listener.Config, host string, dst netip.AddrPort) bool {
	if l.Names(host) {
		return true
	}
	ch := l.Chain(listener.Facts{Dst: dst})
	t := st.table(ch)
	return t != nil && t.Declared([]byte(host))
}

func (w *worker) connectDeclared(in *inbound, l *listener.Config) *proxyerr.Error {
	name, ch := "", l.Chain(listener.Facts{Dst: in.dst, ServerName: in.name})
	if ch != nil && !l.TLS {
		name = ch.To(w.random())
	}
	if name != "" && name != passthroughCluster {
		return w.connectTo(in, ch, name)
	}
	// HTTP or TLS inside: who serves it is known from what the client sends, which it does after this.
	if _, err := in.s.Write([]byte(hcm.ConnectReply)); err != nil {
		in.s.Abort()
		return nil
	}
	w.dispatch(in)
	return nil
}

// connectTo relays what follows a CONNECT to one of a TCP chain's clusters.
func (w *worker) connectTo(in *inbound, ch *listener.Chain, name string) *proxyerr.Error {
	st := w.p.state.Load()
	c := st.clusters[name]
	if c == nil && st.unserved[name] {
		return unserved(name).Err
	}
	if c == nil {
		return &proxyerr.Error{Flags: streaminfo.NoClusterFound, Source: proxyerr.Config}
	}
	o := w.tcpOptions(in, ch, c)
	o.Greeting, o.Refusal = hcm.ConnectReply, connectRefusal
	w.proxyTCP(in, o)
	return nil
}

const connectRefusal = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

func (w *worker) connectUndeclared(in *inbound, addrs []netip.AddrPort) {
	c := w.p.state.Load().clusters[passthroughCluster]
	if len(addrs) == 0 || c == nil || isAllocated(addrs[0].Addr()) || in.leadsBack(addrs[0]) {
		_, _ = in.s.Write([]byte(connectRefusal))
		in.s.Close()
		return
	}
	in.dst = addrs[0]
	w.p.Stats.Detour().PassthroughCx.Inc()
	w.proxyTCP(in, tcpproxy.Options{Cluster: c, Pick: lb.PickInfo{OriginalDst: in.dst}, Stats: w.tcp(passthroughCluster), Once: true,
		Greeting: hcm.ConnectReply, Refusal: connectRefusal})
}

// Log implements hcm.Env.
func (e *httpEnv) Log(info *streaminfo.Info, h *http1.Head) {
	if e.w.p.AccessLog == nil {
		return
	}
	for i := range h.Fields {
		f := &h.Fields[i]
		switch {
		case http1.EqualFold(f.Name, "user-agent"):
			info.UserAgent = f.Value
		case http1.EqualFold(f.Name, "x-forwarded-for"):
			info.ForwardedFor = f.Value
		case http1.EqualFold(f.Name, "x-request-id"):
			info.RequestID = f.Value
		}
	}
	e.w.p.AccessLog(info)
}

// Closed implements hcm.Env.
func (e *httpEnv) Closed(c *hcm.Conn) {
	e.closed = true
	delete(e.w.conns, c)
	e.w.open.Add(-1)
}

// Draining implements hcm.Env.
func (e *httpEnv) Draining() bool { return e.w.p.draining.Load() }
