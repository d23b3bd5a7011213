package router

import (
	"bytes"
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
	"detour.dev/detour/internal/dataplane/upstream/tlstransport"
)

// readHead parses heads until the final one.
func (r *Router) readHead() {
	for {
		win := &r.conn.In
		n, err := http1.ParseResponse(win.B[win.Base:win.Fill], r.s.Request().Asked(), &r.resp)
		if err != nil {
			r.protocolError(err)
			return
		}
		if n == 0 {
			return
		}
		win.Head = win.Base + n
		win.Valid, win.Sent = win.Head, win.Base
		if r.resp.Status >= 200 || r.resp.Status == 101 {
			r.finalHead()
			return
		}
		if !r.interim() {
			return
		}
	}
}

// maxInterims bounds the 1xx heads before one response.
const maxInterims = 100

var (
	errInterims     = errors.New("too many 1xx responses")
	errTrailersLong = errors.New("trailer section too long")
	errEarlySwitch  = errors.New("101 before the end of the request")
)

// interim passes a 1xx head on. HTTP/1.0 has none (RFC 9110 §15.2).
func (r *Router) interim() bool {
	c := r.conn
	win := &c.In
	if r.interims++; r.interims > maxInterims {
		r.protocolError(errInterims)
		return false
	}
	win.Sent = win.Valid
	if r.s.Request().Minor == 1 {
		r.out = http1.AppendResponse(r.out, &r.resp, http1.ResponseRewrite{Minor: 1})
		if !r.flush() && r.conn != c {
			return false
		}
	}
	win.Base, win.Head = win.Head, 0
	r.resp.Reset()
	return true
}

func (r *Router) protocolError(err error) {
	r.cluster.Stats().UpstreamCxProtocolError.Inc()
	r.conn.Abort()
	r.failed(&proxyerr.Error{Flags: sf.UpstreamProtocolError, Kind: lb.ProtocolError, Detail: "protocol error", Cause: err})
}

// finalHead judges the answer and begins to hand it on, or sends the request elsewhere.
func (r *Router) finalHead() {
	retry := &r.route.Retry
	if (r.resp.Status >= 500 || retry.BelowError && (retry.Mode == route.RetryExplicit || r.p.Compat)) && r.retryStatus() {
		return
	}
	r.startResponse()
}

func (r *Router) startResponse() {
	now := r.now()
	r.timer.Stop()
	r.phase = responding
	st, info := r.cluster.Stats(), r.s.Info()
	st.UpstreamRq.Inc(r.resp.Status)
	if info.Priority > 0 {
		st.Detour.PriorityHigher.Inc()
	}
	info.UpstreamServiceTime = now.Sub(r.sentAt)
	info.Code = r.resp.Status
	info.CodeDetails = "via_upstream"
	if r.resp.Status >= 500 {
		// The verdict must not wait for the end of the body.
		r.res.Done(lb.Outcome{Now: now, Kind: lb.Response, Status: r.resp.Status})
	}
	win := &r.conn.In
	r.edit = r.s.EditResponse(&r.resp)
	rw := r.responseRewrite()
	framing, _ := rw.Downstream(&r.resp)
	r.dechunk = r.resp.Framing == http1.Chunked && framing != http1.Chunked
	r.respBody.Start(r.resp.Framing, r.resp.Length)
	r.bulk, r.splicing = true, false
	if r.resp.Tunnel {
		if !r.s.Complete() || r.unsent() {
			r.protocolError(errEarlySwitch)
			return
		}
		r.tunnel()
		return
	}
	if r.resp.Clean && rw.Minor == 1 && !rw.Close && r.edit == nil {
		win.Sent = win.Base
		r.s.Responded(len(r.resp.Raw))
	} else {
		before := len(r.out)
		r.out = http1.AppendResponse(r.out, &r.resp, rw)
		win.Sent = win.Head
		r.s.Responded(len(r.out) - before)
	}
	r.forward()
}

func (r *Router) responseRewrite() http1.ResponseRewrite {
	rw := http1.ResponseRewrite{Minor: r.s.Request().Minor, Close: r.s.Closing()}
	if r.edit != nil {
		rw.Drop, rw.Add = r.edit.Drop, r.edit.Add
	}
	return rw
}

// forward checks what arrived of the body and sends it on.
func (r *Router) forward() {
	c := r.conn
	win := &c.In
	for {
		if err := r.check(); err != nil {
			r.protocolError(err)
			return
		}
		if !r.flush() || r.conn != c {
			return
		}
		if r.respDone {
			r.maybeFinish()
			return
		}
		if win.Valid == win.Fill || !r.trailersNext() {
			return
		}
	}
}

// check moves Valid over what is well-formed.
func (r *Router) check() error {
	win := &r.conn.In
	if r.dechunk {
		return r.checkDechunking()
	}
	n, done, err := r.respBody.Forward(win.Unchecked())
	win.Valid += n
	r.respDone = done || r.respBody.Done()
	return err
}

// checkDechunking copies payload out of its chunks for a client that knows none.
func (r *Router) checkDechunking() error {
	win := &r.conn.In
	for {
		kind, n, err := r.respBody.Next(win.Unchecked())
		if err != nil {
			return err
		}
		if kind == http1.Data {
			r.out = append(r.out, win.B[win.Valid:win.Valid+n]...)
		}
		win.Valid += n
		win.Sent = win.Valid
		if kind == http1.Done {
			r.respDone = true
			return nil
		}
		if kind == http1.Need {
			return nil
		}
	}
}

// trailersNext replaces a trailer section that has fields to drop. It says whether it found one.
func (r *Router) trailersNext() bool {
	win := &r.conn.In
	kind, n, err := r.respBody.Next(win.Unchecked())
	if err != nil {
		r.protocolError(err)
		return false
	}
	if kind != http1.Trailers {
		return false
	}
	r.out = http1.AppendTrailers(r.out[:0], r.respBody.Trailers)
	r.outSent = 0
	win.Valid += n
	win.Sent = win.Valid
	r.respDone = r.respBody.Done()
	return true
}

// flush sends what is pending to the client. It says whether all of it went.
func (r *Router) flush() bool {
	win := &r.conn.In
	for r.outSent < len(r.out) || win.Sent < win.Valid {
		out := r.out[r.outSent:]
		n, err := r.s.Send(out, win.Pending())
		if err == event.ErrAgain {
			return false
		}
		if err != nil {
			r.clientGone()
			return false
		}
		o := min(n, len(out))
		r.outSent += o
		win.Sent += n - o
	}
	r.out, r.outSent = r.out[:0], 0
	return r.flushSpliced()
}

// OnWritable says that the client takes bytes again.
func (r *Router) OnWritable() {
	if r.conn == nil {
		return
	}
	if r.phase != responding {
		if r.outSent < len(r.out) { // the rest of a 1xx head
			r.flush()
		}
		return
	}
	c := r.conn
	if !r.flush() || r.conn != c {
		return
	}
	if r.respDone {
		r.maybeFinish()
		return
	}
	r.forward()
	if r.conn == c {
		r.read()
	}
}

// maybeFinish ends the request once the response is out. A request that is still being sent by then is cut off: the
// endpoint has answered without wanting the rest.
func (r *Router) maybeFinish() {
	c := r.conn
	if r.outSent < len(r.out) || len(c.In.Pending()) > 0 || r.spliced.Held() > 0 {
		return
	}
	sent := r.s.Complete() && !r.unsent()
	clean := sent && r.resp.KeepAlive && r.resp.Framing != http1.UntilClose && c.In.Fill == c.In.Valid
	rw := r.responseRewrite()
	_, mustClose := rw.Downstream(&r.resp)
	if r.resends > 0 && r.resp.Status < 500 {
		r.cluster.Stats().UpstreamRqRetrySuccess.Inc()
	}
	r.cluster.Stats().UpstreamRqTime.Record(r.now().Sub(r.begun))
	r.end(lb.Outcome{Now: r.now(), Kind: lb.Response, Status: r.resp.Status}, !clean)
	r.s.Finish(sent && !mustClose)
}

// upstreamEnded handles FIN and errors of the upstream connection, from reading or writing.
func (r *Router) upstreamEnded(err error) {
	c := r.conn
	if r.phase == responding {
		if err == io.EOF && r.respBody.EOF() == nil {
			r.respDone = true
			if r.flush() && r.conn == c {
				r.maybeFinish()
			}
			return
		}
		r.cluster.Stats().UpstreamRqRxReset.Inc()
		r.fail(&proxyerr.Error{Flags: sf.UpstreamConnectionTermination, Kind: lb.Reset,
			Detail: proxyerr.ConnectionTermination, Cause: err})
		return
	}
	if err == io.EOF && c.In.Fill > c.In.Base { // in the middle of a head
		r.protocolError(http1.ErrTruncated)
		return
	}
	e := &proxyerr.Error{Flags: sf.UpstreamConnectionTermination, Kind: lb.Reset,
		Detail: proxyerr.ConnectionTermination, Cause: err}
	e.Unsent = r.nothingArrived(c, err)
	if e.Unsent && c.Reused() {
		// An idle connection that the peer closed just then says nothing about the endpoint: it gets the request on a
		// new one.
		e.Kind = lb.Cancelled
		r.pick.Tried = r.pick.Tried[:len(r.pick.Tried)-1]
	}
	r.fresh = c.Reused() // where one idle connection was dead, the others may be too
	r.failed(e)
}

// nothingArrived says whether it is proved that nothing of the request can have been processed: none of it was written,
// or the peer's FIN came with none of it acknowledged. A reset proves nothing: the request may have been read first. One that
// came after the FIN is told apart by EPIPE, which Linux gives for a reset in CLOSE_WAIT, and ECONNRESET for one before.
func (r *Router) nothingArrived(c *upstream.Conn, err error) bool {
	if !c.Written() {
		return true
	}
	ended := err == io.EOF || tlstransport.IsTruncated(err) || errors.Is(err, unix.EPIPE)
	return ended && c.Acked() == upstream.AckNone
}

func (r *Router) clientGone() {
	r.s.Info().Flags |= sf.DownstreamConnectionTermination
	r.s.Fail(&proxyerr.Error{Flags: sf.DownstreamConnectionTermination, Source: proxyerr.Downstream, Kind: lb.Cancelled,
		Detail: "downstream connection termination"})
}

// tunnel hands both connections over after 101.
func (r *Router) tunnel() {
	c, res := r.conn, r.res
	rw := r.responseRewrite()
	rw.Close = false
	head := http1.AppendResponse(bytes.Clone(r.out[r.outSent:]), &r.resp, rw)
	r.s.Responded(len(head))
	r.timer.Stop()
	r.limit.Stop()
	r.conn, r.res, r.phase = nil, lb.Result{}, idle
	c.In.Sent = c.In.Valid
	c.In.Valid = c.In.Fill
	res.Connected(r.now(), true)
	r.s.Tunnel(c, head, func() { res.Done(lb.Outcome{Now: r.now(), Kind: lb.Cancelled}) })
}
