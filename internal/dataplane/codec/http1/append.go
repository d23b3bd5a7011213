package http1

import (
	"net/http"
	"strconv"
)

// Pair is a field to add. Its bytes are written as they are: whoever makes it has checked them.
type Pair struct{ Name, Value []byte }

// RequestRewrite is what changes in a request on its way upstream. The zero value changes nothing but what a proxy must.
type RequestRewrite struct {
	Method    []byte   // nil: as received
	Path      []byte   // nil: Head.Path. Bytes that can't stand in a request target are percent-encoded
	Authority []byte   // the value of Host; nil: Head.Authority
	Drop      []string // names, in lower case, of fields to leave out
	Add       []Pair   // fields to put at the end
	Close     bool     // add "Connection: close"
	NoUpgrade bool     // don't ask for the protocol in Head.Upgrade
}

func (rw *RequestRewrite) none() bool {
	return rw.Method == nil && rw.Path == nil && rw.Authority == nil && len(rw.Drop) == 0 && len(rw.Add) == 0 && !rw.Close
}

// AppendRequest appends the head that goes upstream: HTTP/1.1, the target in origin-form (or *), Host in its place with
// its case (first if there was none), hop-by-hop fields gone, all others byte for byte in their order. Connection: upgrade
// and Upgrade are put back if Head.Upgrade is set. A body goes with the framing it came with. CONNECT keeps its
// authority-form. An HTTP/1.0 request that named no host needs rw.Authority: HTTP/1.1 demands a Host.
func AppendRequest(dst []byte, h *Head, rw RequestRewrite) []byte {
	if h.Clean && rw.none() {
		return append(dst, h.Raw...)
	}
	method, path, authority := rw.Method, rw.Path, rw.Authority
	if method == nil {
		method = h.Method
	}
	if authority == nil {
		authority = h.Authority
	}
	if path == nil {
		if path = h.Path; h.Form == AuthorityForm {
			path = authority
		}
	}
	dst = append(dst, method...)
	dst = append(dst, ' ')
	if h.escape || rw.Path != nil {
		dst = appendEscaped(dst, path)
	} else {
		dst = append(dst, path...)
	}
	dst = append(dst, " HTTP/1.1\r\n"...)
	if h.HostIndex < 0 {
		dst = appendField(dst, "Host", authority)
	}
	w := writer{dst: dst, h: h, drop: rw.Drop, upgrade: h.Upgrade != nil && !rw.NoUpgrade && !rw.Close}
	if h.HostIndex >= 0 && string(h.Fields[h.HostIndex].Value) != string(authority) {
		w.host = authority
		w.newHost = true
	}
	w.fields()
	return w.finish(rw.Add, rw.Close, false)
}

// ResponseRewrite is what changes in a response on its way to the client.
type ResponseRewrite struct {
	Minor uint8 // of the client's request: HTTP/1.Minor
	// Close: the connection to the client closes after this response. With Minor 0 and no Close the client asked for
	// keep-alive, and is told that it gets it.
	Close bool
	Chunk bool     // send a body of Framing UntilClose chunked (AppendChunk), so that an HTTP/1.1 connection stays open
	Drop  []string // names, in lower case, of fields to leave out
	Add   []Pair   // fields to put at the end
}

// Downstream returns how the body must be framed towards the client, and whether the connection must close after it.
// Chunked in h and UntilClose here means: send the payload without its chunk framing. UntilClose in h and Chunked here:
// wrap it with AppendChunk and end it with AppendLastChunk, only if it ended in order.
func (rw *ResponseRewrite) Downstream(h *Head) (f Framing, mustClose bool) {
	switch {
	case h.Tunnel:
		return NoBody, false
	case h.Framing == Chunked && rw.Minor == 0:
		return UntilClose, true
	case h.Framing == UntilClose && rw.Chunk && rw.Minor == 1:
		return Chunked, rw.Close
	case h.Framing == UntilClose:
		return UntilClose, true
	}
	return h.Framing, rw.Close
}

// AppendResponse appends the head that goes to the client: HTTP/1.1 (RFC 9110 §6.2), hop-by-hop fields gone, all others
// byte for byte in their order; Connection: close or keep-alive where the client needs to be told. Downstream says how
// its body is framed. 1xx other than 101 must not be sent to an HTTP/1.0 client (RFC 9110 §15.2).
func AppendResponse(dst []byte, h *Head, rw ResponseRewrite) []byte {
	if h.Clean && rw.Minor == 1 && !rw.Close && len(rw.Drop) == 0 && len(rw.Add) == 0 {
		return append(dst, h.Raw...)
	}
	framing, mustClose := rw.Downstream(h)
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(h.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, h.Reason...)
	dst = append(dst, '\r', '\n')
	interim := h.Status/100 == 1
	w := writer{dst: dst, h: h, drop: rw.Drop, upgrade: h.Upgrade != nil && rw.Minor == 1, unchunk: rw.Minor == 0}
	w.fields()
	if framing == Chunked && h.Framing == UntilClose {
		w.dst = append(w.dst, "Transfer-Encoding: chunked\r\n"...)
	}
	return w.finish(rw.Add, mustClose && !interim, rw.Minor == 0 && !mustClose && !interim && !h.Tunnel)
}

// writer copies the fields of a head. Lines that follow each other and stay are copied together.
type writer struct {
	dst     []byte
	h       *Head
	drop    []string
	host    []byte // in place of Host's value, if newHost
	newHost bool
	upgrade bool // keep Upgrade, and put Connection: upgrade in the place of Connection
	unchunk bool // to HTTP/1.0: no Transfer-Encoding, no Trailer
}

func (w *writer) fields() {
	h := w.h
	from, at := h.fieldsAt, h.fieldsAt // Raw[from:at] stays and isn't copied yet
	connection := false
	for i := range h.Fields {
		f := &h.Fields[i]
		next := at + len(f.Line)
		if w.keeps(f, i) {
			at = next
			continue
		}
		w.dst = append(w.dst, h.Raw[from:at]...)
		from, at = next, next
		switch {
		case i == h.HostIndex && w.newHost:
			w.dst = append(append(w.dst, f.Name...), ": "...)
			w.dst = append(append(w.dst, w.host...), "\r\n"...)
		case f.ID == FieldConnection && w.upgrade && !connection:
			connection = true
			w.dst = append(append(w.dst, f.Name...), ": upgrade\r\n"...)
		}
	}
	w.dst = append(w.dst, h.Raw[from:at]...)
}

// keeps tells whether the line of field i goes on as it is.
func (w *writer) keeps(f *Field, i int) bool {
	if f.Drop {
		return f.ID == FieldUpgrade && w.upgrade
	}
	if f.ID != FieldOther {
		if i == w.h.HostIndex && w.newHost {
			return false
		}
		if w.unchunk && (f.ID == FieldTransferEncoding || f.ID == FieldTrailer) {
			return false
		}
	}
	for _, name := range w.drop {
		if EqualFold(f.Name, name) {
			return false
		}
	}
	return true
}

func (w *writer) finish(add []Pair, closing, keepAlive bool) []byte {
	dst := w.dst
	for i := range add {
		dst = append(append(dst, add[i].Name...), ": "...)
		dst = append(append(dst, add[i].Value...), "\r\n"...)
	}
	if closing {
		dst = append(dst, "Connection: close\r\n"...)
	} else if keepAlive && !w.upgrade {
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return append(dst, '\r', '\n')
}

func appendField(dst []byte, name string, value []byte) []byte {
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, value...), "\r\n"...)
}

const hexDigits = "0123456789ABCDEF"

// appendEscaped percent-encodes the bytes that can't stand in a request target (RFC 3986 §2.1).
func appendEscaped(dst, target []byte) []byte {
	for _, c := range target {
		if class[c]&isTarget != 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return dst
}

// AppendChunkSize appends the size line of a chunk of n bytes, n > 0; its data and CRLF follow.
func AppendChunkSize(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, '\r', '\n')
}

// AppendChunk appends one chunk with that payload; nothing for an empty one, which would end the body.
func AppendChunk(dst, payload []byte) []byte {
	if len(payload) == 0 {
		return dst
	}
	dst = AppendChunkSize(dst, len(payload))
	return append(append(dst, payload...), '\r', '\n')
}

// AppendTrailers appends a trailer section: the lines not marked Drop and the empty line. The last chunk's size line was
// Meta and has gone before.
func AppendTrailers(dst []byte, trailers []Field) []byte {
	for i := range trailers {
		if !trailers[i].Drop {
			dst = append(dst, trailers[i].Line...)
		}
	}
	return append(dst, '\r', '\n')
}

// AppendLastChunk appends the last chunk and the trailer section.
func AppendLastChunk(dst []byte, trailers []Field) []byte {
	return AppendTrailers(append(dst, "0\r\n"...), trailers)
}

// AppendLocalReply appends a whole response of the proxy's own, shaped as Envoy's local replies: content-length,
// content-type: text/plain where there is a body. head: the request was HEAD, so that the body is left out. 1xx, 204 and
// 304 carry neither. To an HTTP/1.0 client closeConn must be set: it isn't told that the connection stays open.
func AppendLocalReply(dst []byte, status int, body string, closeConn bool, head bool) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(status)...)
	dst = append(dst, '\r', '\n')
	bodiless := status/100 == 1 || status == 204 || status == 304
	if !bodiless {
		dst = append(dst, "content-length: "...)
		dst = strconv.AppendInt(dst, int64(len(body)), 10)
		dst = append(dst, '\r', '\n')
		if body != "" {
			dst = append(dst, "content-type: text/plain\r\n"...)
		}
	}
	if closeConn {
		dst = append(dst, "connection: close\r\n"...)
	}
	dst = append(dst, '\r', '\n')
	if bodiless || head {
		return dst
	}
	return append(dst, body...)
}
