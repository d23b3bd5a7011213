package http1

import "errors"

// relay is the smallest driver of the codec: what a proxy built on it sends on, given everything one peer sent.
type relay struct {
	out      []byte // what goes to the other side
	messages int    // complete messages
	complete bool   // out ends with a complete message
	last     Head   // the last head
	rest     []byte // bytes behind the last complete message
	err      error
}

// requests relays requests until the bytes end, a connection must close, or an error.
func relayRequests(in []byte, fin bool) (r relay) {
	r.complete = true
	for len(in) > 0 {
		n, err := ParseRequest(in, &r.last)
		if err != nil || n == 0 {
			r.err, r.rest = err, in
			return r
		}
		r.complete = false
		r.out = AppendRequest(r.out, &r.last, RequestRewrite{})
		in = in[n:]
		var b Body
		b.Start(r.last.Framing, r.last.Length)
		in, r.err = r.body(&b, in, fin)
		if r.err != nil || !b.Done() {
			return r
		}
		r.complete = true
		r.messages++
		if !r.last.KeepAlive {
			break
		}
	}
	r.rest = in
	return r
}

// body relays one body with Forward and, where that stops, Next.
func (r *relay) body(b *Body, in []byte, fin bool) ([]byte, error) {
	for {
		n, done, err := b.Forward(in)
		r.out = append(r.out, in[:n]...)
		in = in[n:]
		if done || err != nil {
			return in, err
		}
		kind, n, err := b.Next(in)
		switch {
		case err != nil:
			return in, err
		case kind == Trailers:
			r.out = AppendTrailers(r.out, b.Trailers)
			in = in[n:]
		case kind == Need && fin:
			return in, b.EOF()
		case kind == Need:
			return in, nil
		default:
			return in, errors.New("Forward left what Next could take")
		}
	}
}

// relayResponse relays interim responses and the final one to an HTTP/1.minor client.
func relayResponse(in []byte, asked Asked, minor uint8, closed bool) (r relay) {
	for {
		n, err := ParseResponse(in, asked, &r.last)
		if err != nil {
			r.err = err
			return r
		}
		if n == 0 {
			if closed {
				r.err = ErrTruncated
			}
			return r
		}
		in = in[n:]
		rw := ResponseRewrite{Minor: minor, Chunk: true, Close: minor == 0}
		r.out = AppendResponse(r.out, &r.last, rw)
		if r.last.Status/100 == 1 && !r.last.Tunnel {
			continue
		}
		framing, _ := rw.Downstream(&r.last)
		var b Body
		b.Start(r.last.Framing, r.last.Length)
		if framing == r.last.Framing {
			in, r.err = r.body(&b, in, closed)
		} else {
			in, r.err = r.reframed(&b, in, framing, closed)
		}
		r.rest, r.complete = in, r.err == nil && b.Done()
		return r
	}
}

// reframed relays a body event by event, chunking or unchunking it.
func (r *relay) reframed(b *Body, in []byte, to Framing, closed bool) ([]byte, error) {
	for {
		kind, n, err := b.Next(in)
		if err != nil {
			return in, err
		}
		switch kind {
		case Data:
			if to == Chunked {
				r.out = AppendChunk(r.out, in[:n])
			} else {
				r.out = append(r.out, in[:n]...)
			}
		case Need:
			if !closed {
				return in, nil
			}
			if err := b.EOF(); err != nil {
				return in, err
			}
		case Done:
			if to == Chunked {
				r.out = AppendLastChunk(r.out, nil)
			}
			return in, nil
		}
		in = in[n:]
	}
}
