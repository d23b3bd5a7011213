package http1

// FieldID names the header fields that a proxy itself must understand.
type FieldID uint8

// The known fields; every other name is FieldOther.
const (
	FieldOther FieldID = iota
	FieldHost
	FieldContentLength
	FieldTransferEncoding
	FieldConnection
	FieldKeepAlive
	FieldProxyConnection
	FieldTE
	FieldTrailer
	FieldUpgrade
	FieldExpect
	FieldProxyAuthorization
	FieldProxyAuthenticate
	FieldRetryAfter
	FieldDate
)

// hopByHop holds the fields that are for the next hop only: RFC 9110 §7.6.1 (Connection and what must be removed with or
// without being nominated there), §11.7.1 and §11.7.2 (proxy authentication). Transfer-Encoding and Trailer are
// hop-by-hop too, but belong to the framing, which AppendRequest and AppendResponse decide on.
const hopByHop = 1<<FieldConnection | 1<<FieldKeepAlive | 1<<FieldProxyConnection | 1<<FieldTE | 1<<FieldUpgrade |
	1<<FieldProxyAuthorization | 1<<FieldProxyAuthenticate

// Field is one header or trailer field as received.
type Field struct {
	Name  []byte  // as written
	Value []byte  // without the whitespace around it
	Line  []byte  // the whole line with its CRLF
	ID    FieldID // FieldOther if the name is none of the known ones
	Drop  bool    // not to be forwarded: hop-by-hop, nominated by Connection, or forbidden where it stands
}

// fieldID finds a known name, ASCII case aside. imitation: the name is a known one only if '_' is read as '-'. A gateway
// or application that turns names into variables (RFC 3875 §4.1.18) would take it for that field, so it is refused.
func fieldID(name []byte) (id FieldID, imitation bool) {
	known := ""
	switch len(name) {
	case 2:
		id, known = FieldTE, "te"
	case 4:
		if id, known = FieldHost, "host"; name[0]|0x20 == 'd' {
			id, known = FieldDate, "date"
		}
	case 6:
		id, known = FieldExpect, "expect"
	case 7:
		if id, known = FieldTrailer, "trailer"; name[0]|0x20 == 'u' {
			id, known = FieldUpgrade, "upgrade"
		}
	case 10:
		if id, known = FieldConnection, "connection"; name[0]|0x20 == 'k' {
			id, known = FieldKeepAlive, "keep-alive"
		}
	case 11:
		id, known = FieldRetryAfter, "retry-after"
	case 14:
		id, known = FieldContentLength, "content-length"
	case 16:
		id, known = FieldProxyConnection, "proxy-connection"
	case 17:
		id, known = FieldTransferEncoding, "transfer-encoding"
	case 18:
		id, known = FieldProxyAuthenticate, "proxy-authenticate"
	case 19:
		id, known = FieldProxyAuthorization, "proxy-authorization"
	default:
		return FieldOther, false
	}
	for i, c := range name {
		if fold[c] != known[i] {
			return FieldOther, false
		}
		imitation = imitation || c == '_'
	}
	return id, imitation
}

// Limits of one head, and of one trailer section.
const (
	MaxHead   = 60 << 10 // bytes of a request's, start line and empty line included
	MaxFields = 100
	// MaxResponseHead is MaxHead of a response's: an Envoy's limit (http/http1/codec_impl.cc, MAX_RESPONSE_HEADERS_KB).
	MaxResponseHead = 80 << 10
)

// phase is where an unfinished parse stands.
type phase uint8

const (
	phaseNew phase = iota
	phaseSkip
	phaseStart
	phaseName
	phaseValue
)

// lines is the resumable part of a parse. All offsets are into the buffer.
type lines struct {
	base  *byte // first byte of the buffer the offsets and fields refer to; nil: nothing begun
	begin int   // start of the head
	line  int   // start of the current line
	colon int   // end of the name, in phaseValue
	pos   int   // next byte to look at
	phase phase
}

// resumes tells whether buf is the buffer of the unfinished parse, with at least the bytes seen so far.
func (p *lines) resumes(buf []byte) bool {
	return p.base == &buf[0] && p.pos <= len(buf)
}

// limit cuts b where a head of at most size bytes that begins at p.begin must have ended; full tells that there was something to cut or
// that nothing more may come.
func (p *lines) limit(b []byte, size int) (_ []byte, full bool) {
	if end := p.begin + size; len(b) >= end {
		return b[:end], true
	}
	return b, false
}

// startLine returns the first line without its CRLF, nil if it is not complete yet.
func (p *lines) startLine(b []byte) ([]byte, *Error) {
	i := scanText(b, p.pos)
	p.pos = i
	if i == len(b) {
		return nil, nil
	}
	if b[i] != '\r' {
		return nil, badByte(b[i])
	}
	if i+1 == len(b) {
		return nil, nil
	}
	if b[i+1] != '\n' {
		return nil, errBareCR
	}
	p.phase, p.pos, p.line = phaseName, i+2, i+2
	return b[p.begin:i], nil
}

// fields parses field lines up to and with the empty line and appends them to fs. n is the offset behind the empty
// line, 0 if it has not come yet.
func (p *lines) fields(b []byte, fs []Field) (_ []Field, n int, err *Error) {
	i := p.pos
	for {
		if p.phase == phaseName {
			for i < len(b) && class[b[i]]&isToken != 0 {
				i++
			}
			if i == len(b) {
				p.pos = i
				return fs, 0, nil
			}
			if b[i] != ':' || i == p.line {
				p.pos = i
				n, err = p.noName(b, i)
				return fs, n, err
			}
			p.colon, p.phase = i, phaseValue
			i++
		}
		i = scanText(b, i)
		if i+1 >= len(b) {
			p.pos = i
			if i == len(b) || b[i] == '\r' {
				return fs, 0, nil
			}
			return fs, 0, badByte(b[i])
		}
		if b[i] != '\r' {
			return fs, 0, badByte(b[i])
		}
		if b[i+1] != '\n' {
			return fs, 0, errBareCR
		}
		if fs, err = p.add(b, fs, i); err != nil {
			return fs, 0, err
		}
		i += 2
		p.line, p.phase = i, phaseName
	}
}

// add appends the field whose line ends at b[end:end+2].
func (p *lines) add(b []byte, fs []Field, end int) ([]Field, *Error) {
	if len(fs) == MaxFields {
		return fs, errTooManyFields
	}
	name := b[p.line:p.colon]
	id, imitation := fieldID(name)
	if imitation {
		return fs, errUnderscore
	}
	switch {
	case len(fs) < cap(fs):
		fs = fs[:len(fs)+1]
	case fs == nil:
		fs = make([]Field, 1, 16)
	default:
		fs = append(fs, Field{})
	}
	f := &fs[len(fs)-1]
	f.Name, f.Value, f.Line = name, trim(b[p.colon+1:end]), b[p.line:end+2]
	f.ID, f.Drop = id, false
	return fs, nil
}

// noName handles a line whose name did not end in a colon at i: the empty line, or a fault.
func (p *lines) noName(b []byte, i int) (int, *Error) {
	c := b[i]
	switch {
	case i == p.line && c == '\r':
		if i+1 == len(b) {
			return 0, nil
		}
		if b[i+1] != '\n' {
			return 0, errBareCR
		}
		return i + 2, nil
	case i == p.line && c == ':':
		return 0, errEmptyName
	case i == p.line && (c == ' ' || c == '\t'):
		return 0, errFold
	case c == '\r':
		return 0, errNoColon
	case class[c]&isText == 0:
		return 0, badByte(c)
	}
	return 0, errName
}

// badByte is the fault of a byte, other than CR, that is not text.
func badByte(c byte) *Error {
	if c == '\n' {
		return errBareLF
	}
	return errControl
}
