package http1

const maxEmptyLines = 8 // skipped before a request line (RFC 9112 §2.2)

var (
	pathRoot     = []byte("/")
	pathAsterisk = []byte("*")
)

// ParseRequest reads one request head from the start of buf. n is the number of bytes it takes, skipped empty lines
// included; 0 without an error asks for more bytes (see the package comment for how to go on). An error is always an
// *Error with the status to answer; the connection takes no further request after it.
func ParseRequest(buf []byte, h *Head) (n int, err error) {
	if len(buf) == 0 {
		return 0, nil
	}
	n, e := h.parseRequest(buf)
	if e != nil {
		h.p = lines{}
		return 0, e
	}
	return n, nil
}

func (h *Head) parseRequest(buf []byte) (int, *Error) {
	p := &h.p
	if !p.resumes(buf) {
		h.Reset()
		p.base, p.phase = &buf[0], phaseSkip
	}
	if p.phase == phaseSkip {
		if more, err := p.skipEmptyLines(buf); more || err != nil {
			return 0, err
		}
	}
	b, full := p.limit(buf, MaxHead)
	if p.phase == phaseStart {
		line, err := p.startLine(b)
		if err != nil {
			return 0, err
		}
		if line == nil {
			if full {
				return 0, errURITooLong
			}
			return 0, nil
		}
		if err := h.requestLine(line); err != nil {
			return 0, err
		}
		h.fieldsAt = p.pos - p.begin
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
	h.Raw = buf[p.begin:n]
	h.p = lines{}
	return n, h.finishRequest()
}

// skipEmptyLines moves p.begin behind CRLFs that stand before the request line; more: the next byte is not there yet.
func (p *lines) skipEmptyLines(b []byte) (more bool, err *Error) {
	i := p.pos
	for i < len(b) && b[i] == '\r' {
		if i >= 2*maxEmptyLines {
			return false, errEmptyLines
		}
		if i+1 == len(b) {
			break
		}
		if b[i+1] != '\n' {
			return false, errBareCR
		}
		i += 2
	}
	p.pos, p.begin, p.line = i, i, i
	if i == len(b) || b[i] == '\r' {
		return true, nil
	}
	p.phase = phaseStart
	return false, nil
}

// requestLine reads method SP target SP version, RFC 9112 §3.
func (h *Head) requestLine(line []byte) *Error {
	i := 0
	for i < len(line) && class[line[i]]&isToken != 0 {
		i++
	}
	if i == 0 || i < len(line) && line[i] != ' ' {
		return errMethod
	}
	const version = len(" HTTP/1.1")
	if len(line) < i+1+1+version {
		return errRequestLine
	}
	h.Method = line[:i]
	h.MethodID = methodID(h.Method)
	at := len(line) - version
	minor, err := version1(line[at+1:])
	if err != nil {
		return err
	}
	if line[at] != ' ' {
		return errRequestLine
	}
	h.Minor = minor
	h.Target = line[i+1 : at]
	for _, c := range h.Target {
		if class[c]&isTarget != 0 {
			continue
		}
		if c < 0x80 {
			return errTarget
		}
		h.escape = true
	}
	return h.target()
}

// version1 reads HTTP/1.0 or HTTP/1.1. Other versions of the same shape get 505. There is no HTTP/1.2, so nothing is
// lost by not guessing what it would mean (RFC 9110 §2.5).
func version1(v []byte) (minor uint8, err *Error) {
	switch {
	case string(v) == "HTTP/1.1":
		return 1, nil
	case string(v) == "HTTP/1.0":
		return 0, nil
	case string(v[:5]) == "HTTP/" && class[v[5]]&class[v[7]]&isDigit != 0 && v[6] == '.':
		return 0, errUnsupported
	}
	return 0, errVersion
}

// target sorts the request target into one of the four forms, RFC 9112 §3.2.
func (h *Head) target() *Error {
	t := h.Target
	switch {
	case h.MethodID == CONNECT:
		if !validAuthority(t, true) {
			return errConnectTarget
		}
		h.Form, h.Authority = AuthorityForm, t
	case t[0] == '/':
		h.Path = t
	case len(t) == 1 && t[0] == '*':
		if h.MethodID != OPTIONS {
			return errAsterisk
		}
		h.Form, h.Path = AsteriskForm, pathAsterisk
	default:
		return h.absolute(t)
	}
	return nil
}

// absolute reads an http or https URI. Userinfo is refused (RFC 9110 §4.2.4).
func (h *Head) absolute(t []byte) *Error {
	scheme := 0
	for scheme < len(t) && t[scheme] != ':' {
		scheme++
	}
	if !EqualFold(t[:scheme], "http") && !EqualFold(t[:scheme], "https") ||
		len(t) < scheme+3 || string(t[scheme:scheme+3]) != "://" {
		return errTargetForm
	}
	rest := t[scheme+3:]
	end := 0
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	if !validAuthority(rest[:end], false) {
		return errHost
	}
	h.Form, h.Scheme, h.Authority = AbsoluteForm, t[:scheme], rest[:end]
	switch path := rest[end:]; {
	case len(path) == 0 && h.MethodID == OPTIONS:
		h.Path = pathAsterisk // RFC 9112 §3.2.4
	case len(path) == 0:
		h.Path = pathRoot
	case path[0] == '?':
		h.pathSpace = append(append(h.pathSpace[:0], '/'), path...)
		h.Path = h.pathSpace
	default:
		h.Path = path
	}
	return nil
}

// finishRequest applies what concerns the message as a whole.
func (h *Head) finishRequest() *Error {
	s, err := h.inspect()
	if err != nil {
		return err
	}
	if err := h.host(); err != nil {
		return err
	}
	if err := h.framing(s); err != nil {
		return err
	}
	if h.MethodID == CONNECT && h.Framing != NoBody {
		return errConnectBody
	}
	h.persistence()
	h.protocol(s)
	h.ExpectContinue = s.expect >= 0 && h.Minor == 1 && (h.Framing == Chunked || h.Length > 0)
	h.Clean = h.Minor == 1 && !h.escape && (h.Form == OriginForm || h.Form == AsteriskForm) && h.nothingDropped()
	return nil
}

// host checks Host and takes the authority from it unless the target had one (RFC 9112 §3.2, §3.2.2). An http URI has
// no empty host (RFC 9110 §4.2.1), so an empty Host names nothing; HTTP/1.0 need not name a host.
func (h *Head) host() *Error {
	if h.HostIndex < 0 {
		if h.Minor == 1 {
			return errHostMissing
		}
		return nil
	}
	v := h.Fields[h.HostIndex].Value
	if len(v) == 0 && h.Minor == 0 {
		return nil
	}
	if !validAuthority(v, false) {
		return errHost
	}
	if h.Authority == nil {
		h.Authority = v
	}
	return nil
}
