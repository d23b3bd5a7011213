package hcm

import (
	"bytes"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/relay"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
)

// The methods below are the request as the router sees it (router.Stream).

// Request implements router.Stream.
func (c *Conn) Request() *http1.Head { return &c.req }

// Body implements router.Stream.
func (c *Conn) Body() *buffer.Window { return &c.in }

// Complete implements router.Stream.
func (c *Conn) Complete() bool { return c.complete }

// ReadMore implements router.Stream.
func (c *Conn) ReadMore() { c.s.Again() }

// Info implements router.Stream.
func (c *Conn) Info() *streaminfo.Info { return &c.info }

// Closing implements router.Stream.
func (c *Conn) Closing() bool { return c.closing }

// Authority implements router.Stream.
func (c *Conn) Authority() []byte { return c.authority }

// Responded implements router.Stream.
func (c *Conn) Responded(head int) { c.answered, c.headSize = true, head }

// Send implements router.Stream.
func (c *Conn) Send(head, data []byte) (int, error) {
	n, err := c.s.Writev(head, data)
	c.wrote(n)
	return n, err
}

func (c *Conn) wrote(n int) {
	if n > 0 {
		c.moved = true
		c.sent += uint64(n)
		c.Stats.DownstreamCxTxBytes.Add(uint64(n))
	}
}

// Socket implements router.Stream.
func (c *Conn) Socket() *event.Socket { return c.sock }

// SendSpliced implements router.Stream.
func (c *Conn) SendSpliced(sp *event.Splice) (int, error) {
	n, err := sp.Drain(c.sock)
	c.wrote(n)
	return n, err
}

// Spliced implements router.Stream.
func (c *Conn) Spliced() *event.Splice { return &c.spliced }

// Finish implements router.Stream.
func (c *Conn) Finish(reusable bool) {
	c.routing = false
	if !reusable || c.Env.Draining() {
		c.closing = true
	}
	complete := c.complete
	c.endRequest()
	if c.closing {
		c.finishClosing(complete)
		return
	}
	c.nextRequest()
}

// nextRequest makes the connection ready for what follows, which may be here already.
func (c *Conn) nextRequest() {
	c.in.Next()
	c.req.Reset()
	c.rt = nil
	c.state = reading
	if c.in.Fill > c.in.Base {
		c.timer.Schedule(headTimeout)
		c.serve()
	} else {
		c.timer.Schedule(idleTimeout)
	}
	if c.eof || c.state == reading && !c.inServe {
		c.s.Again() // after its end the client gives no further event
	}
}

// endRequest writes the record of the request.
func (c *Conn) endRequest() {
	if !c.open {
		return
	}
	c.open = false
	if c.filters != nil {
		c.filters.stop()
	}
	c.spliced.Drop(c.D)
	i := &c.info
	i.Duration = c.D.Now().Sub(i.Start)
	i.BytesSent = c.sent - min(c.sent, uint64(c.headSize))
	c.Stats.DownstreamRqActive.Dec()
	if i.Code != 0 {
		c.Stats.DownstreamRq.Inc(i.Code)
	} else {
		c.Stats.DownstreamRqRxReset.Inc()
	}
	c.Stats.DownstreamRqTime.Record(i.Duration)
	c.Env.Log(i, &c.req)
}

// Fail implements router.Stream: it answers with an error, or cuts off the answer that has begun.
func (c *Conn) Fail(err *proxyerr.Error) {
	if c.state != serving {
		return
	}
	c.routing = false
	c.info.Flags |= err.Flags
	if err.Source == proxyerr.Downstream && err.Flags.Has(streaminfo.DownstreamConnectionTermination) {
		c.router.Cancel()
		c.endRequest()
		c.close(true)
		return
	}
	if c.answered {
		c.Stats.RqResetAfter.Inc()
		c.endRequest()
		c.close(true)
		return
	}
	c.reply(err)
}

// reply answers by ourselves. Where the request has not been read to its end, the connection closes after the answer.
func (c *Conn) reply(err *proxyerr.Error) {
	if c.info.CodeDetails == "" {
		c.info.CodeDetails = details(err)
	}
	r := err.Response()
	if c.Pools.Compat {
		r = err.EnvoyResponse(c.info.Attempts > 1)
	}
	c.answer(r, nil)
}

// answer sends a response of our own, changed by an edit, or by what its route and its filters say where that is nil.
func (c *Conn) answer(r proxyerr.Reply, e *route.Edit) {
	c.info.Code = r.Status
	if !c.complete {
		c.closing = true
	}
	c.answered = true
	c.closing = c.closing || c.req.Minor == 0
	head := c.req.MethodID == http1.HEAD
	c.owed = http1.AppendLocalReply(nil, r.Status, r.Body, c.closing, head)
	if e != nil || c.rt != nil && !c.rt.Plain {
		c.edit(e)
	}
	c.headSize = len(c.owed) - len(r.Body)
	if head {
		c.headSize = len(c.owed)
	}
	complete := c.complete
	c.state = flushing
	c.sendOwed()
	if c.state == closed {
		return
	}
	c.endRequest()
	switch {
	case len(c.owed) > 0:
		c.closing = true // the client does not read; it gets this and no more
	case c.closing:
		c.finishClosing(complete)
	default:
		c.state = serving
		c.nextRequest()
	}
}

// edit changes the answer that is owed.
func (c *Conn) edit(e *route.Edit) {
	var h http1.Head
	n, err := http1.ParseResponse(c.owed, c.req.Asked(), &h)
	if err != nil || n == 0 {
		return
	}
	if e == nil {
		e = c.filters.local(&h)
	}
	rw := http1.ResponseRewrite{Minor: 1, Close: c.closing, Drop: e.Drop, Add: e.Add}
	c.owed = append(http1.AppendResponse(nil, &h, rw), c.owed[n:]...)
}

func details(err *proxyerr.Error) string {
	switch {
	case err.Flags.Has(streaminfo.NoRouteFound):
		return "route_not_found"
	case err.Flags.Has(streaminfo.NoClusterFound):
		return "cluster_not_found"
	case err.Flags.Has(streaminfo.NoHealthyUpstream):
		return "no_healthy_upstream"
	case err.Flags.Has(streaminfo.DownstreamProtocolError):
		return "http1.codec_error"
	case err.Flags.Has(streaminfo.UpstreamRequestTimeout):
		return "upstream_response_timeout"
	}
	return "upstream_reset_before_response_started"
}

func (c *Conn) sendOwed() {
	for len(c.owed) > 0 {
		n, err := c.Send(c.owed, nil)
		if err == event.ErrAgain {
			c.timer.Schedule(lingerFor)
			return
		}
		if err != nil {
			c.endRequest()
			c.close(true)
			return
		}
		c.owed = c.owed[n:]
	}
}

func (c *Conn) flushOwed() {
	for len(c.owed) > 0 {
		n, err := c.Send(c.owed, nil)
		if err == event.ErrAgain {
			return
		}
		if err != nil {
			c.close(true)
			return
		}
		c.owed = c.owed[n:]
	}
	c.finishClosing(false)
}

// finishClosing closes after the last answer. Where the client may still be sending, its bytes are read and thrown away
// for a while: closing at once would reset the connection, and the reset could overtake the answer (RFC 9112 §9.6).
func (c *Conn) finishClosing(complete bool) {
	if c.eof || complete && !c.req.KeepAlive && c.in.Fill == c.in.Valid {
		c.close(false) // the client said that it sends no more
		return
	}
	if err := c.s.CloseWrite(); err != nil {
		c.close(false)
		return
	}
	c.state = lingering
	c.in.Release()
	c.timer.Schedule(lingerFor)
	c.discard()
}

func (c *Conn) discard() {
	b := c.Buffers.Get()
	defer c.Buffers.Put(b)
	for c.lingered < lingerBytes {
		n, err := c.s.Read(b)
		if err == event.ErrAgain {
			return
		}
		if err != nil {
			break
		}
		c.lingered += n
	}
	c.close(false)
}

// Tunnel implements router.Stream.
func (c *Conn) Tunnel(up *upstream.Conn, head []byte, done func()) {
	c.Stats.DownstreamCxUpgradesTotal.Inc()
	c.Stats.DownstreamCxUpgradesActive.Inc()
	c.routing = false
	c.state = tunnelled
	c.timer.Stop()
	toA := append(head, up.In.Pending()...)
	toB := append([]byte(nil), c.in.B[c.in.Valid:c.in.Fill]...)
	up.In.Release()
	i := &c.info
	i.Method, i.Path, i.Authority = bytes.Clone(i.Method), bytes.Clone(i.Path), bytes.Clone(i.Authority)
	c.req.Reset()
	c.in.Release()
	c.relay = relay.Start(c.s, up.Stream, relay.Options{Dispatcher: c.D, Pool: c.Buffers, ToA: toA, ToB: toB, Idle: idleTimeout,
		Done: func(error) {
			c.sent += c.relay.Down.Bytes
			c.info.BytesReceived += c.relay.Up.Bytes
			c.Stats.DownstreamCxUpgradesActive.Dec()
			up.Close()
			done()
			c.endRequest()
			c.close(false)
		}})
}

// connect serves a CONNECT request: the worker takes the bytes behind it over as if the client had connected to the
// target itself.
func (c *Conn) connect() {
	if !c.Proxy {
		c.closing = true
		c.Fail(&proxyerr.Error{Source: proxyerr.Downstream, Reply: &proxyerr.Reply{Status: 405, Body: "CONNECT is for the forward proxy"}})
		return
	}
	early := append([]byte(nil), c.in.B[c.in.Head:c.in.Fill]...)
	target := string(c.req.Authority)
	if err := c.Env.Connect(c, c.s, target, early); err != nil {
		c.Fail(err)
		return
	}
	c.info.Code = 200
	c.endRequest()
	c.state = tunnelled
	c.close(false)
}

// ConnectReply is what accepts a CONNECT (RFC 9110 §9.3.6).
const ConnectReply = "HTTP/1.1 200 OK\r\n\r\n"
