package http1

// Asked is what a response must be read against: its framing depends on the request (RFC 9112 §6.3).
type Asked struct {
	Method  MethodID
	Upgrade bool // the request went out with Upgrade, so that 101 is an answer to it
}

// Asked returns what ParseResponse must know about the request.
func (h *Head) Asked() Asked { return Asked{Method: h.MethodID, Upgrade: h.Upgrade != nil} }

// ParseResponse reads one response head from the start of buf, as ParseRequest does a request's. 1xx responses are
// returned like others (the final one follows); 101 only if it was asked for. An error is always an *Error with
// Status 502; the connection it came on must be closed.
func ParseResponse(buf []byte, asked Asked, h *Head) (n int, err error) {
	if len(buf) == 0 {
		return 0, nil
	}
	n, e := h.parseResponse(buf, asked)
	if e != nil {
		h.p = lines{}
		return 0, e.twin
	}
	return n, nil
}

func (h *Head) parseResponse(buf []byte, asked Asked) (int, *Error) {
	p := &h.p
	if !p.resumes(buf) {
		h.Reset()
		p.base, p.phase = &buf[0], phaseStart
	}
	b, full := p.limit(buf, MaxResponseHead)
	if p.phase == phaseStart {
		if p.pos < len(versionPrefix) && foreign(b) {
			return 0, errStatusLine
		}
		line, err := p.startLine(b)
		if err != nil {
			return 0, err
		}
		if line == nil {
			if full {
				return 0, errHeadTooLarge
			}
			return 0, nil
		}
		if err := h.statusLine(line); err != nil {
			return 0, err
		}
		h.fieldsAt = p.pos
	}
	fs, n, err := p.fields(b, h.Fields)
	h.Fields = fs
	if err != nil {
		return 0, err
	}
	if n == 0 {
		if full {
			return 0, errHeadTooLarge
		}
		return 0, nil
	}
	h.Raw = buf[:n]
	h.p = lines{}
	return n, h.finishResponse(asked)
}

const versionPrefix = "HTTP/1."

// foreign tells whether b can't become a status line, so that a server of another protocol isn't waited for.
func foreign(b []byte) bool {
	for i := 0; i < len(b) && i < len(versionPrefix); i++ {
		if b[i] != versionPrefix[i] {
			return true
		}
	}
	return false
}

// statusLine reads version SP 3DIGIT SP [reason], RFC 9112 §4. Many servers leave out the space before an empty reason;
// it is put back (the head is not Clean).
func (h *Head) statusLine(line []byte) *Error {
	const status = len("HTTP/1.1 ")
	if len(line) < status+3 || line[status-1] != ' ' {
		return errStatusLine
	}
	minor, err := version1(line[:status-1])
	if err != nil {
		return err
	}
	for _, c := range line[status : status+3] {
		if class[c]&isDigit == 0 {
			return errStatusLine
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if len(line) > status+3 && line[status+3] != ' ' {
		return errStatusLine
	}
	if h.Status < 100 || h.Status > 599 { // RFC 9110 §15
		return errStatus
	}
	h.Minor = minor
	h.Reason = nil
	if len(line) > status+3 {
		h.Reason = line[status+4:]
	}
	return nil
}

// finishResponse decides the framing, RFC 9112 §6.3, and what goes on.
func (h *Head) finishResponse(asked Asked) *Error {
	s, err := h.inspect()
	if err != nil {
		return err
	}
	if err := h.framing(s); err != nil {
		return err
	}
	h.persistence()
	if h.Status == 101 || h.Status == 426 {
		h.protocol(s)
	}
	if h.Status == 101 {
		if !asked.Upgrade {
			return errSwitch
		}
		if h.Upgrade == nil {
			return errSwitchFields
		}
	}
	h.Tunnel = h.Status == 101 || asked.Method == CONNECT && h.Status/100 == 2
	switch {
	case h.Status/100 == 1 || h.Status == 204 || h.Tunnel:
		h.bodiless(s)
	case asked.Method == HEAD || h.Status == 304:
		h.Framing, h.Length = NoBody, 0
	case h.Framing == NoBody:
		h.Framing, h.KeepAlive = UntilClose, false
	}
	h.Clean = h.Minor == 1 && h.Framing != UntilClose && h.Reason != nil && h.nothingDropped()
	return nil
}

// bodiless ends a 1xx, a 204 or a tunnel's head where it ends whatever its fields say (RFC 9112 §6.3). RFC 9110 §8.6 and
// RFC 9112 §6.1 forbid it Content-Length and Transfer-Encoding. Servers exist that send "Content-Length: 0" with 204, so
// these are removed, not refused; if they promise a body, whoever believes in it is not trusted with another message.
func (h *Head) bodiless(s seen) {
	if h.Framing == Chunked || h.Length > 0 {
		h.KeepAlive = false
	}
	if s.length >= 0 {
		h.Fields[s.length].Drop = true
	}
	if s.coding >= 0 {
		h.Fields[s.coding].Drop = true
	}
	h.Framing, h.Length = NoBody, 0
}
