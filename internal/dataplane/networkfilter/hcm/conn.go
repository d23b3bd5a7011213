// Package hcm is the HTTP connection manager: it owns a client's HTTP/1.1 connection from its first byte, cuts it into
// requests, finds their routes, lets the router serve one at a time in order, and closes it when it must not be used
// again. Everything runs on one worker's event loop.
package hcm

import (
	"io"
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

// check moves the request's Valid over what is well-formed.
func (c *Conn) check() error {
	n, done, err := c.body.Forward(c.in.Unchecked())
	c.in.Valid += n
	if err != nil {
		return err
	}
	c.complete = done || c.body.Done()
	c.info.BytesReceived += uint64(n)
	if c.complete || c.in.Valid == c.in.Fill {
		return nil
	}
	// A trailer section that is not whole yet, or one with fields that would be taken for framing: nobody sends that in
	// good faith, and the message is refused.
	if kind, _, err := c.body.Next(c.in.Unchecked()); err != nil || kind == http1.Trailers {
		return errTrailers
	}
	return nil
}

var errTrailersLong = &http1.Error{Status: 400, Reason: "trailer section too long"}

var errTrailers = &http1.Error{Status: 400, Reason: "trailer field that must not be a trailer"}

// readBody reads what the client sends while its request is served: the rest of the body, then the next requests as far
// as they fit, or its end.
func (c *Conn) readBody() {
	for read := 0; c.state == serving; {
		if c.complete && (c.in.Fill-c.in.Valid >= buffer.Size/2 || c.in.Fill == len(c.in.B)) {
			return // enough of what comes next
		}
		if read >= turnBytes {
			c.s.Again()
			return
		}
		if c.spliced.Held() > 0 {
			return // the endpoint has to take what is there first
		}
		n, err := c.splice()
		spliced := err != event.ErrNoSplice
		if !spliced {
			room := c.in.Room()
			if len(room) == 0 {
				if !c.complete && len(c.in.Pending()) == 0 {
					c.broken(errTrailersLong) // nothing will ever make room
				}
				return
			}
			n, err = c.s.Read(room)
			c.in.Fill += n
		}
		if err == event.ErrAgain {
			return
		}
		if err != nil {
			c.onEnd(err)
			return
		}
		read += n
		c.moved = true
		c.Stats.DownstreamCxRxBytes.Add(uint64(n))
		if !spliced && !c.take() {
			return
		}
	}
}

// take hands on what was read of the body. false: it is broken.
func (c *Conn) take() bool {
	if c.complete {
		return true
	}
	from := c.in.Valid
	if err := c.check(); err != nil {
		c.broken(err)
		return false
	}
	if c.copying() {
		c.filters.mirrors.add(c.in.B[from:c.in.Valid])
	}
	if c.routing {
		c.router.OnRequestData()
	}
	return true
}

// splice has payload of the request moved inside the kernel, where much of it comes next and it could not be sent again
// anyway. It returns what Read would, or ErrNoSplice where the bytes have to be read.
func (c *Conn) splice() (int, error) {
	left := c.body.Remaining()
	if left < router.SpliceFrom || c.sock == nil || !c.routing || c.copying() || c.in.Fill > c.in.Valid || c.in.Keep && c.in.Fill < len(c.in.B) ||
		!c.router.TakesSpliced() {
		return 0, event.ErrNoSplice
	}
	n, err := c.spliced.Fill(c.sock, left)
	if err != nil {
		return 0, err
	}
	c.in.Keep = false
	c.body.Skip(int64(n))
	c.complete = c.body.Done()
	c.info.BytesReceived += uint64(n)
	c.router.OnRequestData()
	return n, nil
}

// onEnd handles the client's FIN, or an error.
func (c *Conn) onEnd(err error) {
	switch {
	case c.state == reading && err == io.EOF && c.in.Fill == c.in.Base:
		c.Stats.DownstreamCxDestroyRemote.Inc()
		c.close(false)
	case c.state == reading && err == io.EOF:
		c.refuse(http1.ErrTruncated)
	case c.state == serving && err == io.EOF && c.complete:
		if !c.eof { // it may still read; requests that are here already are served
			c.eof = true
			c.timer.Schedule(halfClosed)
		}
	case c.state == serving && err == io.EOF:
		c.broken(http1.ErrTruncated)
	default:
		c.Stats.DownstreamCxDestroyRemote.Inc()
		c.info.Flags |= streaminfo.DownstreamConnectionTermination
		c.drop()
	}
}

// broken ends a request whose body can't be completed: the endpoint never gets the end of it.
func (c *Conn) broken(err error) {
	c.Stats.DownstreamCxProtocolError.Inc()
	if c.routing {
		c.routing = false
		c.router.Cancel()
	}
	c.Fail(c.protocolError(err))
}

func (c *Conn) protocolError(err error) *proxyerr.Error {
	e := &proxyerr.Error{Flags: streaminfo.DownstreamProtocolError, Source: proxyerr.Downstream, Cause: err}
	if he, ok := err.(*http1.Error); ok {
		e.Reply = &proxyerr.Reply{Status: he.Status, Body: he.Reason}
	}
	return e
}

// refuse answers bytes that are no request.
func (c *Conn) refuse(err error) {
	c.Stats.DownstreamCxProtocolError.Inc()
	if c.state == reading {
		c.info.Reset()
		c.info.Start = c.D.Now()
		c.info.DownstreamRemote, c.info.DownstreamLocal, c.info.OriginalDst = c.Remote, c.Local, c.OriginalDst
		c.Stats.DownstreamRqTotal.Inc()
		c.Stats.DownstreamRqActive.Inc()
		c.req.MethodID, c.answered, c.complete = http1.MethodOther, false, false
		c.state, c.open = serving, true
	}
	c.closing = true
	c.Fail(c.protocolError(err))
}

// onTimer: a head that does not end, a connection nobody uses, a request on which nothing moves, a client that does not
// go away.
func (c *Conn) onTimer() {
	switch c.state {
	case reading:
		if c.in.Fill > c.in.Base {
			c.Stats.DownstreamRqHeaderTimeout.Inc()
			c.refuse(errHeadTimeout)
			return
		}
		c.Stats.DownstreamCxIdleTimeout.Inc()
		c.close(false)
	case serving:
		if c.moved {
			c.moved = false
			c.timer.Schedule(c.patience())
			return
		}
		c.Stats.DownstreamRqIdleTimeout.Inc()
		if c.routing {
			c.routing = false
			c.router.Cancel()
		}
		c.Fail(&proxyerr.Error{Flags: streaminfo.StreamIdleTimeout, Reply: &proxyerr.Reply{Status: c.late(), Body: "stream timeout"}})
	default:
		c.close(false)
	}
}

// patience is how long nothing may move on a request.
func (c *Conn) patience() time.Duration {
	switch {
	case c.eof:
		return halfClosed
	case c.rt != nil && c.rt.HasIdle:
		return c.rt.Idle
	}
	return c.StreamIdle
}

func (c *Conn) rearm() {
	if wait := c.patience(); wait > 0 {
		c.timer.Schedule(wait)
	} else {
		c.timer.Stop()
	}
}

// late is the status for a request that took too long: 408 where it never came to its end, as in Envoy.
func (c *Conn) late() int {
	if c.complete {
		return 504
	}
	return 408
}

// copying says that the request's body is being copied for mirrors.
func (c *Conn) copying() bool { return c.filters != nil && c.filters.mirrors.pending() }

var errHeadTimeout = &http1.Error{Status: 408, Reason: "request head took too long"}

// drop ends the connection with a reset, and whatever is under way on it.
func (c *Conn) drop() {
	if c.state == closed {
		return
	}
	if c.state == serving {
		if c.routing {
			c.routing = false
			c.router.Cancel()
		}
		c.endRequest()
	}
	c.close(true)
}

// Close ends the connection at once.
func (c *Conn) Close() {
	if c.relay != nil {
		c.relay.Close()
		return
	}
	c.drop()
}

// Drain closes the connection if it is idle, else after its request.
func (c *Conn) Drain() {
	c.closing = true
	if c.state == reading {
		c.readHead() // a request may have arrived already
	}
	if c.state == reading && c.in.Fill == c.in.Base {
		c.Stats.DownstreamCxDrainClose.Inc()
		c.close(false)
	}
}

func (c *Conn) close(abort bool) {
	if c.state == closed {
		return
	}
	tunnel := c.state == tunnelled
	c.state = closed
	c.timer.Stop()
	c.in.Release()
	if !tunnel {
		if abort {
			c.s.Abort()
		} else {
			c.s.Close()
		}
	}
	c.Stats.DownstreamCxActive.Dec()
	c.Stats.DownstreamCxHTTP1Active.Dec()
	c.Stats.DownstreamCxDestroy.Inc()
	c.Stats.DownstreamCxLengthMs.Record(c.D.Now().Sub(c.began))
	c.Pools.ClientGone(c.Remote)
	c.Env.Closed(c)
}
