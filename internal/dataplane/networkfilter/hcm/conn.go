// Package hcm is the HTTP connection manager: it owns a client's HTTP/1.1 connection from its first byte, cuts it into
// requests, finds their routes, lets the router serve one at a time in order, and closes it when it must not be used
// again. Everything runs on one worker's event loop.
package hcm

import (
	"net/netip"
	"time"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/httpfilter/mirror"
	"detour.dev/detour/internal/dataplane/httpfilter/router"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/relay"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
	"detour.dev/detour/internal/stats"
)

// Timeouts of a client's connection.
const (
	headTimeout = 60 * time.Second // from the first byte of a head to its last
	idleTimeout = time.Hour        // between requests (Envoy's common_http_protocol_options.idle_timeout)
	halfClosed  = 5 * time.Minute  // for the answer to a client that has ended its direction
	lingerFor   = 2 * time.Second  // for the client to read an answer given before its request was read
	lingerBytes = 1 << 20
	turnBytes   = 1 << 20  // of a body, read before others get their turn
	turnHeads   = 64 << 10 // of requests that were answered at once
)

// Decision is where a request goes.
type Decision struct {
	Route   *route.Route
	Cluster *cluster.Cluster
	Pick    lb.PickInfo
	// Err refuses the request.
	Err *proxyerr.Error
	// Authority goes upstream as Host where an HTTP/1.0 request named none.
	Authority []byte
	// Lookup is a name to resolve first: an undeclared host on the forward proxy. Its addresses become the original
	// destinations, with Port.
	Lookup string
	Port   uint16
	// Random is what the route was chosen by.
	Random uint64
}

// Env is what connections need of their worker.
type Env interface {
	// Decide finds the route of a request.
	Decide(c *Conn, req *http1.Head) Decision
	// Lookup resolves a name and calls back on the worker's loop, with an address at least or with why there is none.
	Lookup(name string, port uint16, fn func([]netip.AddrPort, *proxyerr.Error))
	// Connect takes a connection over after a CONNECT request was accepted. early is what the client sent behind it.
	Connect(c *Conn, s event.Stream, authority string, early []byte) *proxyerr.Error
	// Mirror sends a copy of a request, which it keeps, where the route leads. It says whether there was room for it.
	Mirror(rt *route.Route, raw []byte) bool
	// Log is told of each request that ended. info is reused afterwards; h is its head, empty if there was none.
	Log(info *streaminfo.Info, h *http1.Head)
	// Closed is told that the connection is gone.
	Closed(c *Conn)
	// Draining says that connections should close after the current request.
	Draining() bool
}

// Options of a connection.
type Options struct {
	Env     Env
	D       *event.Dispatcher
	Buffers *buffer.Pool
	Pools   *upstream.Pools
	// Mirrors bounds what the copies of all requests hold.
	Mirrors *mirror.Mirrors
	Stats   *stats.HTTP
	// Remote is the client, Local the address it connected to, OriginalDst where it wanted to go if redirected.
	Remote, Local, OriginalDst netip.AddrPort
	// Path of the Unix socket that the client connected to.
	Path string
	// Port of the listener, the default port of a Host that names none.
	Port uint16
	// StreamIdle ends a request on which nothing moves for that long (stream_idle_timeout); 0: never.
	StreamIdle time.Duration
	// Proxy says that absolute-form requests and CONNECT are expected: the forward proxy.
	Proxy bool
	// Rand gives uniformly distributed values; nil: the runtime's own generator.
	Rand func() uint64
}

// Conn is one client connection.
type Conn struct {
	Options
	s     event.Stream
	sock  *event.Socket // s, if it is a plain socket
	in    buffer.Window
	state state
	timer event.Timer

	req       http1.Head
	body      http1.Body
	spliced   event.Splice // payload of the request behind what is in the window
	router    router.Router
	info      streaminfo.Info
	complete  bool   // the whole request has arrived
	eof       bool   // the client has ended its direction
	routing   bool   // the router has the request
	answered  bool   // the final head was given to the client
	closing   bool   // no further request on this connection
	inServe   bool   // serve is on the stack
	open      bool   // the request's record has not been written yet
	moved     bool   // bytes moved since the stream's idle timer was armed
	lookup    int    // generation of the pending name lookup
	authority []byte // of a request that named none
	lingered  int
	relay     *relay.Relay
	began     time.Time
	sent      uint64       // bytes of the response, its head included
	headSize  int          // of the response
	owed      []byte       // of an answer of our own that the client has not taken yet
	rt        *route.Route // of the request; nil: none
	filters   *filters     // nil until a request needs them
}

type state uint8

const (
	reading state = iota // waiting for, or in, a head
	serving
	flushing  // the last answer is going out, then close
	lingering // it is out; the client may still be sending
	tunnelled
	closed
)

// Serve takes over a client's stream. early is what was read of it already.
func Serve(s event.Stream, early []byte, o Options) *Conn {
	c := &Conn{Options: o, s: s}
	c.sock, _ = s.(*event.Socket)
	c.in.Init(o.Buffers)
	c.timer.Init(o.D, c.onTimer)
	c.began = o.D.Now()
	c.Stats.DownstreamCxTotal.Inc()
	c.Stats.DownstreamCxActive.Inc()
	c.Stats.DownstreamCxHTTP1Total.Inc()
	c.Stats.DownstreamCxHTTP1Active.Inc()
	s.SetHandler(c)
	c.timer.Schedule(headTimeout)
	for len(early) > 0 {
		n := copy(c.in.Room(), early)
		if n == 0 {
			break // more than a head may be; the parser refuses it
		}
		c.in.Fill += n
		early = early[n:]
	}
	if c.in.Fill > 0 {
		c.serve()
	}
	s.Again()
	return c
}

// OnEvent implements event.Handler.
func (c *Conn) OnEvent(readable, writable bool) {
	if writable {
		c.onWritable()
	}
	if readable {
		c.onReadable()
	}
}

func (c *Conn) onWritable() {
	switch c.state {
	case serving:
		if c.routing {
			c.router.OnWritable()
		}
	case flushing:
		c.flushOwed()
	}
}

func (c *Conn) onReadable() {
	switch c.state {
	case reading:
		c.readHead()
	case serving:
		c.readBody()
	case lingering:
		c.discard()
	}
}

// readHead reads towards the next request.
func (c *Conn) readHead() {
	for read := 0; c.state == reading; {
		if read >= turnHeads {
			c.s.Again()
			return
		}
		n, err := c.s.Read(c.in.Room())
		if err == event.ErrAgain {
			if c.in.Fill == c.in.Base {
				c.in.Release()
			}
			return
		}
		if err != nil {
			c.onEnd(err)
			return
		}
		if c.in.Fill == c.in.Base {
			c.timer.Schedule(headTimeout)
		}
		read += n
		c.in.Fill += n
		c.Stats.DownstreamCxRxBytes.Add(uint64(n))
		c.serve()
	}
}

// serve starts requests for as long as whole heads are here and none is being served.
func (c *Conn) serve() {
	if c.inServe {
		return
	}
	c.inServe = true
	for c.state == reading && c.in.Fill > c.in.Base {
		n, err := http1.ParseRequest(c.in.B[c.in.Base:c.in.Fill], &c.req)
		if err != nil {
			c.refuse(err)
			break
		}
		if n == 0 {
			break
		}
		c.start(n)
	}
	c.inServe = false
}

// start begins one request whose head is n bytes long, empty lines before it included.
func (c *Conn) start(n int) {
	c.in.Head = c.in.Base + n
	c.in.Base = c.in.Head - len(c.req.Raw)
	c.in.Sent, c.in.Valid = c.in.Head, c.in.Head
	c.state = serving
	c.complete, c.answered, c.routing = false, false, false
	c.sent, c.headSize, c.open = 0, 0, true
	c.begin()
	c.body.Start(c.req.Framing, c.req.Length)
	if err := c.check(); err != nil {
		c.refuse(err)
		return
	}
	if c.req.MethodID == http1.CONNECT {
		c.connect()
		return
	}
	d := c.Env.Decide(c, &c.req)
	switch {
	case d.Err != nil && (d.Route == nil || d.Route.Plain):
		c.Fail(d.Err)
	case d.Lookup != "":
		c.resolve(d)
	default:
		c.route(d)
	}
}

// begin fills in the record of the request.
func (c *Conn) begin() {
	c.Stats.DownstreamRqTotal.Inc()
	c.Stats.DownstreamRqActive.Inc()
	c.Stats.DownstreamRqHTTP1Total.Inc()
	i, h := &c.info, &c.req
	i.Reset()
	i.Start = c.D.Now()
	i.Method, i.Path, i.Authority = h.Method, h.Path, h.Authority
	if h.Path == nil {
		i.Path = h.Target // CONNECT
	}
	i.Protocol = streaminfo.HTTP11
	if h.Minor == 0 {
		i.Protocol = streaminfo.HTTP10
	}
	i.DownstreamRemote, i.DownstreamLocal, i.OriginalDst = c.Remote, c.Local, c.OriginalDst
	i.DownstreamPath = c.Path
	c.moved = false
	c.lookup++ // one that is still under way belongs to a request that has ended
	c.rearm()
	if !h.KeepAlive || c.Env.Draining() {
		c.closing = true
	}
}

func (c *Conn) route(d Decision) {
	i := &c.info
	i.Route, i.Cluster = d.Route.Name, d.Route.Cluster
	c.rt = d.Route
	if !d.Route.Plain {
		c.filter(d)
		return
	}
	c.toRouter(d)
}

// toRouter answers directly, or lets the router serve the request.
func (c *Conn) toRouter(d Decision) {
	i := &c.info
	if dr := d.Route.Direct; dr != nil {
		i.CodeDetails = "direct_response"
		c.Stats.RqDirectResponse.Inc()
		c.Fail(&proxyerr.Error{Source: proxyerr.Config, Reply: &proxyerr.Reply{Status: dr.Status, Body: dr.Body}})
		return
	}
	c.Stats.RqTotal.Inc()
	c.routing, c.authority = true, d.Authority
	c.router.Start(c, c.Pools, d.Route, d.Cluster, d.Pick)
}

// resolve serves a request to an undeclared host, once its name is known.
func (c *Conn) resolve(d Decision) {
	c.lookup++
	gen := c.lookup
	c.s.Again() // a client that left right behind its request gives no further event
	c.Env.Lookup(d.Lookup, d.Port, func(addrs []netip.AddrPort, err *proxyerr.Error) {
		switch {
		case c.state != serving || c.lookup != gen:
		case err != nil:
			c.Fail(err)
		default:
			d.Pick.OriginalDst = addrs[0]
			c.route(d)
		}
	})
}
