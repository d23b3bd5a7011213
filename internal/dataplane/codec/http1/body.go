package http1

import "math"

// Kind is what Body.Next found.
type Kind uint8

const (
	Need     Kind = iota // more bytes are needed; n is 0
	Data                 // in[:n] is payload
	Meta                 // in[:n] is chunk framing: size lines, the last one included, and the CRLFs after chunks
	Trailers             // in[:n] is the whole trailer section, empty line included; its fields are in Body.Trailers
	Done                 // the body is complete; n is 0
)

// MaxChunkExtensions is how many bytes of chunk extensions one message may carry. They mean nothing to anybody and are
// passed on as they are.
const MaxChunkExtensions = 16 << 10

type bodyState uint8

const (
	stateDone bodyState = iota
	stateLength
	stateClose
	stateSizeFirst // first digit of a chunk size
	stateSize
	stateExt
	stateSizeLF
	stateData
	stateDataCR
	stateDataLF
	stateTrailers
)

// Body finds its way through the bytes of one message body. It never copies and never looks at a byte twice, but for the
// trailer section, which it wants to see whole (at most MaxHead bytes). The zero Body is a body that is done.
//
// Chunk framing is checked byte by byte as it comes, so a broken message may have been forwarded up to the fault, but
// never its end.
type Body struct {
	// Trailers are the trailer fields after Next said Trailers, pointing into the bytes given to it. Those that must
	// not be taken for header fields (RFC 9110 §6.5.1) are marked Drop.
	Trailers []Field

	left   int64 // of a ContentLength body, or of the chunk
	digits int   // of the chunk size
	ext    int   // bytes of chunk extensions so far, in this message
	state  bodyState
	p      lines
}

// Start prepares for the body of a head with that framing and length.
func (b *Body) Start(framing Framing, length int64) {
	*b = Body{Trailers: b.Trailers[:0]}
	switch framing {
	case ContentLength:
		if length > 0 {
			b.state, b.left = stateLength, length
		}
	case Chunked:
		b.state = stateSizeFirst
	case UntilClose:
		b.state = stateClose
	}
}

// Done tells whether the body is complete.
func (b *Body) Done() bool { return b.state == stateDone }

// Next names the kind of the first n bytes of in. Bytes behind the body are never part of n. Errors are *Error.
func (b *Body) Next(in []byte) (kind Kind, n int, err error) {
	switch b.state {
	case stateDone:
		return Done, 0, nil
	case stateTrailers:
		n, e := b.trailers(in)
		if e != nil {
			return Need, 0, e
		}
		if n == 0 {
			return Need, 0, nil
		}
		b.state = stateDone
		return Trailers, n, nil
	}
	if len(in) == 0 {
		return Need, 0, nil
	}
	switch b.state {
	case stateClose:
		return Data, len(in), nil
	case stateLength, stateData:
		n = len(in)
		if int64(n) > b.left {
			n = int(b.left)
		}
		b.Skip(int64(n))
		return Data, n, nil
	}
	n, e := b.meta(in)
	if e != nil {
		return Need, 0, e
	}
	return Meta, n, nil
}

// Forward returns how many bytes at the start of in may be sent on as they are to a peer that takes the same framing.
// done: they end the body. It stops early at a trailer section that is incomplete or has a field to drop: if n is less
// than len(in) and neither done nor err is set, ask Next, which says Need or Trailers. With an error, in[:n] is what came
// before the fault.
func (b *Body) Forward(in []byte) (n int, done bool, err error) {
	for n < len(in) {
		switch b.state {
		case stateDone:
			return n, true, nil
		case stateClose:
			return len(in), false, nil
		case stateLength, stateData:
			k := int64(len(in) - n)
			if k > b.left {
				k = b.left
			}
			b.Skip(k)
			n += int(k)
		case stateTrailers:
			k, e := b.trailers(in[n:])
			if e != nil {
				return n, false, e
			}
			if k == 0 || !b.allTrailers() {
				return n, false, nil
			}
			b.state = stateDone
			n += k
		default:
			k, e := b.meta(in[n:])
			n += k
			if e != nil {
				return n, false, e
			}
		}
	}
	return n, b.state == stateDone, nil
}

// Remaining returns how many of the next bytes are payload and nothing else: up to the end of a ContentLength body or of
// the current chunk, -1 for all until the peer closes, 0 where chunk framing comes next or nothing at all.
func (b *Body) Remaining() int64 {
	switch b.state {
	case stateLength, stateData:
		return b.left
	case stateClose:
		return -1
	}
	return 0
}

// Skip says that n payload bytes, at most Remaining, were moved without being shown to Next or Forward.
func (b *Body) Skip(n int64) {
	switch b.state {
	case stateLength:
		if b.left -= n; b.left <= 0 {
			b.state = stateDone
		}
	case stateData:
		if b.left -= n; b.left <= 0 {
			b.state = stateDataCR
		}
	}
}

// EOF says that the peer closed in order. It returns nil if that ends the body or the body was complete, else
// ErrTruncated. A reset is not an EOF: it never ends a body.
func (b *Body) EOF() error {
	switch b.state {
	case stateDone, stateClose:
		b.state = stateDone
		return nil
	}
	return ErrTruncated
}

// meta walks over chunk framing until a chunk's data, the trailer section, or the end of in. RFC 9112 §7.1.
func (b *Body) meta(in []byte) (int, *Error) {
	for i := 0; i < len(in); i++ {
		c := in[i]
		switch b.state {
		case stateSizeFirst:
			if class[c]&isHex == 0 {
				return i, errChunkSize
			}
			b.left, b.digits, b.state = hexValue(c), 1, stateSize
		case stateSize:
			if err := b.size(c); err != nil {
				return i, err
			}
		case stateExt:
			end := scanText(in, i)
			if b.ext += end - i; b.ext > MaxChunkExtensions {
				return i, errChunkExtLong
			}
			if i = end; i == len(in) {
				return i, nil
			}
			if in[i] != '\r' {
				return i, errChunkExt
			}
			b.state = stateSizeLF
		case stateSizeLF:
			if c != '\n' {
				return i, errChunkSize
			}
			if b.left > 0 {
				b.state = stateData
			} else {
				b.state = stateTrailers
			}
			return i + 1, nil
		case stateDataCR:
			if c != '\r' {
				return i, errChunkEnd
			}
			b.state = stateDataLF
		case stateDataLF:
			if c != '\n' {
				return i, errChunkEnd
			}
			b.state = stateSizeFirst
		}
	}
	return len(in), nil
}

// size takes a byte behind the first digit of a chunk size. Whitespace behind the size, which RFC 9112 §7.1.1 tolerates
// before an extension (BWS), is refused: nobody writes it, and recipients differ about it.
func (b *Body) size(c byte) *Error {
	switch {
	case c == ';':
		b.state = stateExt
		b.ext++
	case c == '\r':
		b.state = stateSizeLF
	case class[c]&isHex == 0:
		return errChunkSize
	default:
		if b.digits++; b.digits > 16 || b.left > math.MaxInt64>>4 {
			return errChunkSize
		}
		b.left = b.left<<4 | hexValue(c)
	}
	if b.ext > MaxChunkExtensions {
		return errChunkExtLong
	}
	return nil
}

// trailers reads the trailer section; 0: not complete yet.
func (b *Body) trailers(in []byte) (int, *Error) {
	if len(in) == 0 {
		return 0, nil
	}
	p := &b.p
	if !p.resumes(in) {
		*p = lines{base: &in[0], phase: phaseName}
		b.Trailers = b.Trailers[:0]
	}
	section, full := p.limit(in, MaxHead)
	fs, n, err := p.fields(section, b.Trailers)
	b.Trailers = fs
	if err != nil {
		return 0, err
	}
	if n == 0 {
		if full {
			return 0, errTrailers
		}
		return 0, nil
	}
	b.p = lines{}
	for i := range fs {
		fs[i].Drop = fs[i].ID != FieldOther || forbiddenTrailer(fs[i].Name)
	}
	return n, nil
}

func (b *Body) allTrailers() bool {
	for i := range b.Trailers {
		if b.Trailers[i].Drop {
			return false
		}
	}
	return true
}

// forbiddenTrailer tells whether a field must not come as a trailer, RFC 9110 §6.5.1: a recipient that merges trailers into
// the header would be deceived about routing, authentication, request modifiers, or the content's format. The known
// fields (framing, hop-by-hop) are forbidden as a whole and not listed.
func forbiddenTrailer(name []byte) bool {
	if len(name) > 3 && EqualFold(name[:3], "if-") {
		return true
	}
	for _, forbidden := range forbiddenTrailers {
		if EqualFold(name, forbidden) {
			return true
		}
	}
	return false
}

var forbiddenTrailers = [...]string{
	"age", "authorization", "cache-control", "content-encoding", "content-range", "content-type", "cookie", "expires",
	"location", "max-forwards", "pragma", "range", "realm", "set-cookie", "vary", "via", "www-authenticate",
	"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
}
