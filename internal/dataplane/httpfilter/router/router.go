// Package router owns what happens to one request towards its cluster: picking an endpoint, getting a connection, sending,
// waiting, trying elsewhere, and handing the answer back. It is the last HTTP filter, as Envoy's
// envoy.filters.http.router.
//
// It is a state machine driven by one worker's event loop: every method runs to its end without blocking. What may be
// sent twice is decided in retry.go; how silence is told from slowness in silence.go.
package router

import (
	"errors"
	"strconv"
	"time"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
)

// Stream is the request as the router sees it; the connection manager implements it, whatever the codec.
type Stream interface {
	Request() *http1.Head
	// Body is the window in which the request lies: its head at [Base:Head], its body as far as it has come behind it.
	Body() *buffer.Window
	// Complete says that the whole body is in the window or has gone through it.
	Complete() bool
	// ReadMore says that the window has room again.
	ReadMore()
	// Send writes to the client: a head of the proxy's making and bytes as they came. It may take less than all.
	Send(head, data []byte) (int, error)
	// Socket is the client's connection if it is a plain socket, nil else: then nothing is spliced.
	Socket() *event.Socket
	// SendSpliced sends payload of the response that never was in this process, as Send does.
	SendSpliced(sp *event.Splice) (int, error)
	// Spliced is payload of the request behind what is in the window.
	Spliced() *event.Splice
	// Closing says that the client's connection will close after this response.
	Closing() bool
	// Authority is the Host for a request that named none (HTTP/1.0).
	Authority() []byte
	// Responded is called once, when the final head, of that many bytes, is about to be sent; then Fail can't answer any
	// more.
	Responded(head int)
	// Finish says that the whole response was sent. reusable is false where the client can only see its end by the
	// connection closing.
	Finish(reusable bool)
	// Fail ends the request: with an answer of the proxy's own, or by cutting the response short.
	Fail(err *proxyerr.Error)
	// Tunnel hands the upstream connection over: from now on it is bytes both ways.
	// head goes to the client first; c.In holds what the endpoint has sent behind it. done is called at the end.
	Tunnel(c *upstream.Conn, head []byte, done func())
	// Rewrite says what the route changes in the request's head; asked only where the route is not plain.
	Rewrite() http1.RequestRewrite
	// EditResponse says what the filters and the route change in the response's final head, nil for nothing.
	EditResponse(h *http1.Head) *route.Edit
	Info() *sf.Info
}

// Router serves one request at a time and is reused for the next.
type Router struct {
	s       Stream
	p       *upstream.Pools
	route   *route.Route
	cluster *cluster.Cluster
	resends int // attempts after the request had been sent
	pick    lb.PickInfo
	tried   [8]*lb.Host

	res    lb.Result
	race   upstream.Race
	conn   *upstream.Conn
	phase  phase
	sni    string
	begun  time.Time
	sentAt time.Time   // when the last byte of the request so far was written
	edit   *route.Edit // of the response's head; nil: none

	attached   time.Time       // when the attempt got its connection
	perTry     time.Time       // when its per_try_timeout began: with a connection, and the whole request here
	retryAfter *proxyerr.Error // while backing off: the failure before
	wait       time.Duration   // before the next attempt, as the endpoint asked; 0: as the policy says
	had        lb.Priorities   // the priorities that had the request
	attempts   int             // how often it went to one

	places // of this attempt

	fresh     bool // the next attempt takes a new connection
	resending bool // the next attempt may go to an endpoint that had the request before

	writeErr error  // the endpoint takes no more of the request; what it sent before may still be read
	head     []byte // request head of our making, nil where it goes as it came
	headSent int
	out      []byte // response bytes of our making: a head, trailers, dechunked payload
	outSent  int
	scratch  []byte

	resp     http1.Head
	respBody http1.Body
	respDone bool // the whole response is in the window or has left it
	dechunk  bool // the client speaks HTTP/1.0
	bulk     bool // much of the body comes at a time
	splicing bool // some of it was spliced
	spliced  event.Splice
	interims int // 1xx heads so far

	timer event.Timer // silence, per-try timeout, back-off
	limit event.Timer // the route's timeout
}

// places are what a second attempt holds until it ends.
type places struct {
	budget   bool // in the retry budget (guarantee E2)
	retrying bool // among the cluster's retries (max_retries)
}

type phase uint8

const (
	idle       phase = iota
	connecting       // the race is on
	queued           // the cluster has as many connections as it may
	sending          // conn is set; the request is not wholly written
	waiting          // the request is written; no final head yet
	responding       // the final head is here
	backingOff       // between two attempts
)

// Start serves the request on a cluster. info holds what the choice of an endpoint may depend on.
func (r *Router) Start(s Stream, p *upstream.Pools, rt *route.Route, c *cluster.Cluster, info lb.PickInfo) {
	if r.p == nil {
		r.timer.Init(p.D, r.onTimer)
		r.limit.Init(p.D, r.onLimit)
	}
	r.s, r.p, r.route, r.cluster, r.pick = s, p, rt, c, info
	r.pick.Tried = r.tried[:0]
	r.resends = 0
	r.begun = p.D.Now()
	r.out, r.outSent = r.out[:0], 0
	r.sni, r.fresh, r.resending = "", false, false
	if c.Config().HTTP.AutoSNI {
		host, _ := http1.SplitAuthority(s.Request().Authority)
		r.sni = string(host)
	}
	r.edit, r.wait, r.had, r.attempts = nil, 0, lb.Priorities{}, 0
	r.limited()
	s.Body().Keep = true
	r.race.Begin(p, c, &r.pick, r.sni, true, rt.Retry.Mode != route.RetryNone, r)
	if p.Waiting(c) {
		r.queue()
		return
	}
	r.next(nil)
}

// limited starts the route's timeout once the whole request is here (RouteAction.timeout).
func (r *Router) limited() {
	if r.route.Timeout > 0 && r.s.Complete() && !r.limit.Armed() {
		r.limit.Schedule(r.route.Timeout)
	}
}

// requestComplete starts the clocks that run from the request's end.
func (r *Router) requestComplete() {
	r.limited()
	if r.conn == nil || r.phase == responding || !r.perTry.IsZero() {
		return
	}
	r.perTry = r.now()
	if t := r.tryTimeout(); t > 0 {
		r.timer.Schedule(min(t, firstLook))
	}
}

// next makes attempts until one is under way. last is the failure of the one before; the client gets it when nothing is
// left to try.
func (r *Router) next(last *proxyerr.Error) {
	for {
		res, err := r.choose()
		switch {
		case err == nil:
		case last == nil:
			r.notPicked(err)
			return
		case last.Unsent && errors.Is(err, lb.ErrAllTried):
			r.after(r.decide(last, true), last)
			return
		default:
			r.fail(last)
			return
		}
		switch last = r.use(res); last {
		case nil:
			return
		case upstream.NoRoom:
			r.pick.Tried = r.pick.Tried[:len(r.pick.Tried)-1]
			r.queue()
			return
		}
		if d := r.decide(last, false); d != elsewhere {
			r.after(d, last)
			return
		}
		r.cluster.Stats().Detour.RetryUnsent.Inc()
	}
}

// notPicked ends the request because there is no endpoint for it.
func (r *Router) notPicked(err error) {
	e, st := pickError(err), r.cluster.Stats()
	if e.Flags.Has(sf.UpstreamOverflow) {
		st.UpstreamRqActiveOver.Inc()
	} else {
		st.UpstreamCxNoneHealthy.Inc()
	}
	r.fail(e)
}

// choose picks an endpoint. A request that may be sent again goes to one that had it before when there is no other.
func (r *Router) choose() (lb.Result, error) {
	r.pick.Now = r.now()
	if every := r.route.Retry.PriorityUpdate; every > 0 && r.attempts > 0 && r.attempts%every == 0 {
		r.pick.Exclude = r.had
	}
	if r.resending && r.ownPolicy() && !r.route.Retry.OtherHosts {
		r.pick.Tried = r.tried[:0] // its policy does not mind the same endpoint
	}
	res, err := r.cluster.Pick(&r.pick)
	if r.resending && errors.Is(err, lb.ErrAllTried) {
		r.pick.Tried = r.tried[:0]
		res, err = r.cluster.Pick(&r.pick)
	}
	r.resending = false
	return res, err
}

// use gets a connection to the picked endpoint.
func (r *Router) use(res lb.Result) *proxyerr.Error {
	fresh := r.fresh
	r.fresh = false
	r.phase = connecting
	err := r.race.Try(res, fresh)
	if err != nil {
		r.phase = idle
	}
	return err
}

// Trying implements upstream.Racer.
func (r *Router) Trying(e *lb.Endpoint) {
	r.s.Info().Attempts++
	r.attempts++
	r.cluster.Stats().UpstreamRqTotal.Inc()
	r.to(e)
}

// to records where the request is going.
func (r *Router) to(e *lb.Endpoint) {
	r.had.Add(e.Priority)
	info := r.s.Info()
	info.UpstreamHost, info.UpstreamHostname, info.Priority = e.Target(), e.Hostname, e.Priority
}

// Won implements upstream.Racer.
func (r *Router) Won(c *upstream.Conn, res lb.Result) {
	r.to(res.Endpoint)
	r.attach(c, res)
}

// Lost implements upstream.Racer.
func (r *Router) Lost(err *proxyerr.Error) {
	r.s.Info().UpstreamFailure = err.Error()
	r.phase = idle
	r.failed(err)
}

// queue lets the request wait until the cluster has room for a connection (max_connections), if it may
// (max_pending_requests).
func (r *Router) queue() {
	st := r.cluster.Stats()
	if !r.cluster.Breaker().Pending.TryAcquire() {
		st.UpstreamRqPendOver.Inc()
		r.fail(upstream.NoRoom)
		return
	}
	r.phase = queued
	st.UpstreamRqPendTotal.Inc()
	st.UpstreamRqPendActive.Inc()
	r.p.Wait(r.cluster, r)
	r.timer.Schedule(lookAgain)
}

// Room implements upstream.Queued. Without room the request keeps its place in the queue.
func (r *Router) Room() {
	// Looking for room walks all hosts: that is for the first of thousands, and nobody overtakes it.
	if !r.p.First(r.cluster, r) || !r.p.HasRoom(r.cluster) {
		r.p.Ask(r.cluster, r)
		r.timer.Schedule(lookAgain)
		return
	}
	r.unqueue()
	r.next(nil)
}

func (r *Router) unqueue() {
	r.phase = idle
	r.timer.Stop()
	r.p.Leave(r.cluster, r)
	r.cluster.Breaker().Pending.Release()
	r.cluster.Stats().UpstreamRqPendActive.Dec()
}

// attach sends the request on a connection.
func (r *Router) attach(c *upstream.Conn, res lb.Result) {
	r.conn, r.res, r.phase = c, res, sending
	c.Stream.SetHandler(r)
	c.Begin()
	c.In.Keep = false
	r.resp.Reset()
	r.respDone, r.interims, r.writeErr = false, 0, nil
	win, req := r.s.Body(), r.s.Request()
	rw, rewritten := r.rewrite()
	if req.Clean && !rewritten {
		r.head, win.Sent = nil, win.Base
	} else {
		r.scratch = http1.AppendRequest(r.scratch[:0], req, rw)
		r.head, win.Sent = r.scratch, win.Head
	}
	r.headSent = 0
	r.watch()
	r.pump()
	if r.conn == c {
		c.Stream.Again() // what arrived before we were its handler gives no further event
	}
}

// rewrite says what changes in the head for the chosen endpoint.
func (r *Router) rewrite() (rw http1.RequestRewrite, any bool) {
	if !r.route.Plain {
		rw, any = r.s.Rewrite(), true
		if r.route.AttemptCount {
			rw.Drop = append(rw.Drop[:len(rw.Drop):len(rw.Drop)], attemptCount)
			rw.Add = append(rw.Add[:len(rw.Add):len(rw.Add)], http1.Pair{Name: []byte(attemptCount), Value: strconv.AppendInt(nil, int64(r.s.Info().Attempts), 10)})
		}
	}
	switch {
	case r.route.AutoHostRewrite && r.res.Endpoint.Hostname != "":
		rw.Authority, any = []byte(r.res.Endpoint.Hostname), true
	case r.route.HostRewrite != "":
		rw.Authority, any = []byte(r.route.HostRewrite), true
	case r.s.Request().Authority == nil:
		rw.Authority, any = r.s.Authority(), true
	}
	return rw, any
}

const attemptCount = "x-envoy-attempt-count"

// OnEvent hears of the upstream connection.
func (r *Router) OnEvent(readable, writable bool) {
	if writable && r.conn != nil && r.unsent() {
		r.pump()
	}
	if readable && r.conn != nil {
		r.read()
	}
}

// OnRequestData says that more of the request is in the window, or that it is complete.
func (r *Router) OnRequestData() {
	if r.s.Complete() {
		r.requestComplete()
	}
	if r.conn != nil && r.phase != idle {
		r.pump()
	}
}

// unsent says whether bytes of the request wait to be written.
func (r *Router) unsent() bool {
	win := r.s.Body()
	return r.headSent < len(r.head) || win.Sent < win.Valid || r.s.Spliced().Held() > 0
}

// pump writes what there is of the request.
func (r *Router) pump() {
	if r.writeErr != nil {
		return
	}
	win := r.s.Body()
	for r.unsent() {
		err := r.send(win)
		if err == event.ErrAgain {
			return
		}
		if err != nil {
			// It may have answered before it stopped reading (RFC 9112 §9.5).
			r.writeErr = err
			r.read()
			return
		}
	}
	r.sentAt = r.p.D.Now()
	if r.s.Complete() {
		if r.phase == sending {
			r.phase = waiting
		}
		if r.phase == responding && r.respDone {
			r.maybeFinish()
		}
		return
	}
	r.s.ReadMore()
}

// send writes once.
func (r *Router) send(win *buffer.Window) error {
	head := r.head[r.headSent:]
	if len(head) == 0 && win.Sent == win.Valid {
		_, err := r.s.Spliced().Drain(r.conn.Sock)
		return err
	}
	n, err := r.conn.Stream.Writev(head, win.Pending())
	h := min(n, len(head))
	r.headSent += h
	win.Sent += n - h
	return err
}

// turnBytes bounds what is read of one response before others get their turn.
const turnBytes = 1 << 20

// read takes what the endpoint sent.
func (r *Router) read() {
	c := r.conn
	for got := 0; r.conn == c; {
		if r.phase == responding && (r.respDone || len(c.In.Pending()) > 0 || r.outSent < len(r.out) || r.spliced.Held() > 0) {
			return // the client has to take what is there first
		}
		if got >= turnBytes {
			c.Stream.Again()
			return
		}
		n, err := r.receive(c)
		if err == errTrailersLong {
			r.protocolError(err) // nothing is pending: nothing will ever make room
			return
		}
		if err == event.ErrAgain && (r.writeErr == nil || !c.Sock.PeerClosed()) {
			return // after a failed write the event of what broke the connection is still to come
		}
		if err != nil && r.writeErr != nil {
			err = r.writeErr // a reset that was told once shows as an end afterwards
		}
		if err != nil {
			r.upstreamEnded(err)
			return
		}
		got += n
		if r.phase != responding {
			r.readHead()
		} else {
			r.forward()
		}
	}
}

// receive reads once: into the window, or into the kernel's hands. errTrailersLong: there is no room.
func (r *Router) receive(c *upstream.Conn) (int, error) {
	if r.maySplice() {
		if n, err := r.splice(); err != event.ErrNoSplice {
			return n, err
		}
	}
	room := c.In.Room()
	if len(room) == 0 {
		return 0, errTrailersLong
	}
	n, err := c.Stream.Read(room)
	c.In.Fill += n
	r.bulk = n == len(room)
	return n, err
}

// Cancel ends the request because the client is gone.
func (r *Router) Cancel() {
	r.end(lb.Outcome{Now: r.now(), Kind: lb.Cancelled}, true)
}

func (r *Router) now() time.Time { return r.p.D.Now() }

// end gives back everything the request holds. abort says that the upstream connection can't be used again.
func (r *Router) end(o lb.Outcome, abort bool) {
	r.timer.Stop()
	r.limit.Stop()
	r.release(o, abort)
	r.phase = idle
	if cap(r.out) > buffer.Size {
		r.out = nil
	}
	if cap(r.scratch) > buffer.Size {
		r.scratch = nil
	}
}

// release ends the current attempt.
func (r *Router) release(o lb.Outcome, abort bool) {
	if r.budget {
		r.budget = false
		r.cluster.Retry().Release()
	}
	if r.retrying {
		r.retrying = false
		r.cluster.Breaker().Retries.Release()
	}
	r.race.Abandon()
	if r.phase == queued {
		r.unqueue()
	}
	r.spliced.Drop(r.p.D)
	if c := r.conn; c != nil {
		r.conn = nil
		if r.res.Open() {
			r.res.Done(o)
		}
		if abort {
			c.Abort()
		} else {
			r.p.Put(c)
		}
	}
}

// fail ends the request with an error that the client sees.
func (r *Router) fail(err *proxyerr.Error) {
	if r.phase != responding && err.Reply == nil {
		r.cluster.Stats().UpstreamRq.Inc(err.Response().Status) // as Envoy counts its own answers
	}
	if r.phase != responding && r.outSent > 0 {
		r.s.Responded(0) // the client has part of a 1xx head: no other answer can follow
	}
	r.end(lb.Outcome{Now: r.now(), Kind: err.Kind, Err: err.Cause}, true)
	r.s.Fail(err)
}

// onLimit runs when the route's timeout has passed.
func (r *Router) onLimit() {
	r.cluster.Stats().UpstreamRqTimeout.Inc()
	r.fail(timeoutError())
}
