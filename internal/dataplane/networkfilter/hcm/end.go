package hcm

import (
	"io"
	"time"

	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

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
