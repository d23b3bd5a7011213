package hcm

import (
	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/httpfilter/router"
)

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

// copying says that the request's body is being copied for mirrors.
func (c *Conn) copying() bool { return c.filters != nil && c.filters.mirrors.pending() }
