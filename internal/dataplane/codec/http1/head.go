package http1

// Form is the form of a request target, RFC 9112 §3.2.
type Form uint8

const (
	OriginForm    Form = iota // /path?query
	AbsoluteForm              // http://host/path?query
	AuthorityForm             // host:port, CONNECT only
	AsteriskForm              // *, OPTIONS only
)

// Framing is how a message body is delimited, RFC 9112 §6.3.
type Framing uint8

const (
	NoBody        Framing = iota // ends with the head
	ContentLength                // Head.Length bytes, possibly 0
	Chunked                      // chunked transfer coding
	UntilClose                   // responses only: until the peer closes
)

// MethodID names the standard methods (RFC 9110 §9.3, RFC 5789). Methods are case-sensitive.
type MethodID uint8

// The methods; every other one is MethodOther.
const (
	MethodOther MethodID = iota
	GET
	HEAD
	POST
	PUT
	DELETE
	OPTIONS
	TRACE
	CONNECT
	PATCH
)

func methodID(m []byte) MethodID {
	switch string(m) {
	case "GET":
		return GET
	case "HEAD":
		return HEAD
	case "POST":
		return POST
	case "PUT":
		return PUT
	case "DELETE":
		return DELETE
	case "OPTIONS":
		return OPTIONS
	case "TRACE":
		return TRACE
	case "CONNECT":
		return CONNECT
	case "PATCH":
		return PATCH
	}
	return MethodOther
}

// Idempotent tells whether a request with this method may be sent twice, RFC 9110 §9.2.2.
func (m MethodID) Idempotent() bool {
	switch m {
	case GET, HEAD, PUT, DELETE, OPTIONS, TRACE:
		return true
	}
	return false
}

// Head is one message head. Every slice points into the buffer that was parsed, or into memory of the Head's own, and
// is valid until that buffer changes or the Head is used for another message. The zero Head is ready; reuse it to
// avoid allocations. It must not be copied while a parse is unfinished.
type Head struct {
	Method    []byte // requests
	Target    []byte // the request target as received
	Scheme    []byte // of an absolute target, as received; nil otherwise
	Authority []byte // host[:port] from an absolute or authority-form target (which wins over Host, RFC 9112 §3.2.2), else Host; nil if HTTP/1.0 named none
	Path      []byte // path and query to send upstream when nothing rewrites them; "*" for OPTIONS *; nil for CONNECT
	MethodID  MethodID
	Form      Form

	Status int    // responses: 100 to 599
	Reason []byte // may be empty

	Minor  uint8   // 0 or 1: HTTP/1.Minor
	Fields []Field // in the order received, at most MaxFields
	Raw    []byte  // exactly the head: from its first byte to the empty line; empty lines before a request are not part

	Framing   Framing
	Length    int64 // of a body with Framing ContentLength, else 0
	KeepAlive bool  // the connection this came on may carry another message after this one
	// Clean: Raw may be sent byte for byte to an HTTP/1.1 peer on a connection that stays open. The message is
	// HTTP/1.1, has nothing to drop or rewrite, and its length is in its head. Whoever sets Drop on a field clears it.
	Clean bool

	ExpectContinue bool   // an HTTP/1.1 request with a body waits for 100 (Continue) before it sends it
	Upgrade        []byte // what Connection: upgrade asks for (request), or 101 and 426 name (response); nil if nothing
	Tunnel         bool   // response: after this head the bytes are no longer HTTP (101, or 2xx to CONNECT)

	HostIndex int // index of the Host field in Fields, -1 if there is none

	fieldsAt  int    // length of the start line with its CRLF, within Raw
	escape    bool   // Path holds a byte above 0x7f
	pathSpace []byte // memory for a Path that stands nowhere in the buffer ("/?q" for http://host?q)
	p         lines
	opt       options
}

// Idempotent tells whether the request may be sent twice, RFC 9110 §9.2.2.
func (h *Head) Idempotent() bool { return h.MethodID.Idempotent() }

// Reset forgets everything, an unfinished parse included, and keeps the memory.
func (h *Head) Reset() {
	*h = Head{Fields: h.Fields[:0], pathSpace: h.pathSpace[:0], HostIndex: -1}
}

// Find returns the index of the first field with that name, given in lower case, or -1.
func (h *Head) Find(lower string) int {
	for i := range h.Fields {
		if EqualFold(h.Fields[i].Name, lower) {
			return i
		}
	}
	return -1
}

// DropField marks field i as not to be forwarded.
func (h *Head) DropField(i int) {
	h.Fields[i].Drop = true
	h.Clean = false
}

// options is what the Connection field says, RFC 9110 §7.6.1.
type options struct {
	close, keepAlive, upgrade bool
	count                     int
}

const maxOptions = 100 // bounds the work of matching options with fields

// connection reads one Connection field, marks the fields it nominates, and returns errOptions on a flood of options.
//
// RFC 9110 §7.6.1 lets a sender nominate only fields meant for the next hop. A nominated Host, Content-Length,
// Transfer-Encoding, Trailer, Expect, Date or Retry-After is a sender's mistake or an attack; it is ignored, since
// obeying it would give the message another meaning at the next hop than it has here. Elements that are no token
// name no field and are ignored too: the Connection field itself goes no further.
func (h *Head) connection(value []byte) *Error {
	for len(value) > 0 {
		end := 0
		for end < len(value) && value[end] != ',' {
			end++
		}
		option := trim(value[:end])
		if value = value[end:]; len(value) > 0 {
			value = value[1:]
		}
		if len(option) == 0 {
			continue
		}
		if h.opt.count++; h.opt.count > maxOptions {
			return errOptions
		}
		switch {
		case EqualFold(option, "close"):
			h.opt.close = true
		case EqualFold(option, "keep-alive"):
			h.opt.keepAlive = true
		case EqualFold(option, "upgrade"):
			h.opt.upgrade = true
		default:
			h.nominate(option)
		}
	}
	return nil
}

func (h *Head) nominate(option []byte) {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.ID == FieldOther && equalFoldBytes(f.Name, option) {
			f.Drop = true
		}
	}
}

// seen is what one walk over the fields found: indices into Fields, -1 for none.
type seen struct {
	length, coding, upgrade, expect int
	upgrades                        int
}

// inspect walks over the fields once: marks the hop-by-hop ones, reads Connection, refuses repeated framing fields.
func (h *Head) inspect() (s seen, err *Error) {
	s = seen{length: -1, coding: -1, upgrade: -1, expect: -1}
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.ID == FieldOther {
			continue
		}
		if hopByHop&(1<<f.ID) != 0 {
			f.Drop = true
		}
		switch f.ID {
		case FieldHost:
			if h.HostIndex >= 0 {
				return s, errHostTwice
			}
			h.HostIndex = i
		case FieldContentLength:
			if s.length >= 0 {
				return s, errLengthTwice
			}
			s.length = i
		case FieldTransferEncoding:
			if s.coding >= 0 {
				return s, errTETwice
			}
			s.coding = i
		case FieldConnection:
			if err := h.connection(f.Value); err != nil {
				return s, err
			}
		case FieldUpgrade:
			s.upgrade = i
			s.upgrades++
		case FieldExpect:
			if EqualFold(f.Value, "100-continue") { // what else is expected is the server's to judge, RFC 9110 §10.1.1
				s.expect = i
			}
		}
	}
	return s, nil
}

// framing reads Content-Length and Transfer-Encoding, RFC 9112 §6.1 to §6.3. Both together, which the RFC lets a
// proxy repair, are refused: the sender and this proxy may not agree on which one a third party believes.
func (h *Head) framing(s seen) *Error {
	if s.coding >= 0 {
		if h.Minor == 0 {
			return errTE10
		}
		if s.length >= 0 {
			return errLengthAndTE
		}
		if err := coding(h.Fields[s.coding].Value); err != nil {
			return err
		}
		h.Framing = Chunked
	} else if s.length >= 0 {
		n, ok := length(h.Fields[s.length].Value)
		if !ok {
			return errLength
		}
		h.Framing, h.Length = ContentLength, n
	}
	return nil
}

// persistence decides KeepAlive, RFC 9112 §9.3.
func (h *Head) persistence() {
	h.KeepAlive = !h.opt.close && (h.Minor == 1 || h.opt.keepAlive)
}

// protocol sets Upgrade from the one Upgrade field that Connection: upgrade covers. h2c is not offered onwards: RFC 9113
// §3.1 withdrew it, and a tunnel opened by it would carry requests past every check.
func (h *Head) protocol(s seen) {
	if s.upgrades != 1 || !h.opt.upgrade || h.Minor == 0 {
		return
	}
	value := h.Fields[s.upgrade].Value
	for rest := value; len(rest) > 0; {
		end := 0
		for end < len(rest) && rest[end] != ',' {
			end++
		}
		if EqualFold(trim(rest[:end]), "h2c") {
			return
		}
		if rest = rest[end:]; len(rest) > 0 {
			rest = rest[1:]
		}
	}
	if len(value) > 0 {
		h.Upgrade = value
	}
}

// nothingDropped tells whether all fields go on.
func (h *Head) nothingDropped() bool {
	for i := range h.Fields {
		if h.Fields[i].Drop {
			return false
		}
	}
	return true
}

// length reads a Content-Length: digits only, below 1<<63.
func length(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 19 {
		return 0, false
	}
	for _, c := range v {
		if class[c]&isDigit == 0 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n >= 0
}

// coding checks a Transfer-Encoding: nil for exactly "chunked", 501 for other codings, 400 for what is no list of
// them or has chunked anywhere but at the end.
func coding(v []byte) *Error {
	if EqualFold(v, "chunked") {
		return nil
	}
	for {
		end := 0
		for end < len(v) && v[end] != ',' {
			end++
		}
		name := trim(v[:end])
		last := end == len(v)
		if len(name) == 0 || !last && EqualFold(name, "chunked") {
			return errTE
		}
		for _, c := range name {
			if class[c]&isToken == 0 {
				return errTE
			}
		}
		if last {
			return errCoding
		}
		v = v[end+1:]
	}
}
