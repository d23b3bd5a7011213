// Package tlsinspector reads what a TLS ClientHello says in the clear: the server name, the protocols offered, and whether
// data follows at once. It peeks only: nothing is decrypted, changed or answered (Envoy's
// envoy.filters.listener.tls_inspector).
package tlsinspector

import "errors"

// MaxHello is how many bytes of a ClientHello are kept; a longer one is relayed without being understood.
const MaxHello = 16 << 10

// Hello is a ClientHello as far as it decides anything.
type Hello struct {
	// ServerName is the SNI in lower case without a trailing dot; empty if there is none.
	ServerName string
	ALPN       []string
	// EarlyData says that the client sends application data right behind the hello (RFC 8446 §4.2.10): it must not be
	// given to a second endpoint.
	EarlyData bool
	// Len is how many bytes the records of the hello take.
	Len int
}

// Errors of Parse.
var (
	// ErrNotTLS: the bytes do not begin a TLS handshake.
	ErrNotTLS = errors.New("not a TLS ClientHello")
	// ErrTooLong: the hello is longer than MaxHello.
	ErrTooLong = errors.New("TLS ClientHello too long")
	// ErrMalformed: it begins as one and is broken.
	ErrMalformed = errors.New("malformed TLS ClientHello")
)

const (
	recordHandshake   = 22
	typeClientHello   = 1
	extServerName     = 0
	extALPN           = 16
	extEarlyData      = 42
	recordHeader      = 5
	maxRecord         = 1<<14 + 256
	nameTypeHost      = 0
	maxServerNameSize = 255
)

// Parse reads a ClientHello from the first bytes of a connection. ok is false while more bytes are needed. The hello may
// be cut into records anywhere (RFC 8446 §5.1).
func Parse(b []byte) (h Hello, ok bool, err error) {
	msg, used, ok, err := reassemble(b)
	if !ok || err != nil {
		return Hello{}, false, err
	}
	h, err = parseHello(msg)
	h.Len = used
	return h, err == nil, err
}

// reassemble joins the handshake records until the ClientHello is whole. It copies only when there are several.
func reassemble(b []byte) (msg []byte, used int, ok bool, err error) {
	if len(b) > 0 && b[0] != recordHandshake || len(b) > 1 && b[1] != 3 {
		return nil, 0, false, ErrNotTLS
	}
	for {
		if len(b)-used < recordHeader {
			return nil, 0, false, tooLong(len(b))
		}
		r := b[used:]
		size := int(r[3])<<8 | int(r[4])
		if r[0] != recordHandshake || r[1] != 3 || size == 0 || size > maxRecord {
			return nil, 0, false, ErrMalformed
		}
		part := r[recordHeader:]
		whole := len(part) >= size
		if whole {
			part = part[:size]
		}
		if msg == nil {
			msg = part[:len(part):len(part)]
		} else {
			msg = append(msg, part...)
		}
		if len(msg) > 0 && msg[0] != typeClientHello {
			return nil, 0, false, ErrNotTLS
		}
		if len(msg) >= 4 {
			need := 4 + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]))
			if need > MaxHello {
				return nil, 0, false, ErrTooLong
			}
			if len(msg) >= need {
				return msg[4:need], used + recordHeader + len(part), whole || len(msg) >= need, nil
			}
		}
		if !whole {
			return nil, 0, false, tooLong(len(b))
		}
		used += recordHeader + size
	}
}

func tooLong(n int) error {
	if n >= MaxHello {
		return ErrTooLong
	}
	return nil
}

// reader takes length-prefixed fields off a slice; after a short read everything is empty and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.bad = nil, true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint(size int) (n int) {
	for _, c := range r.take(size) {
		n = n<<8 | int(c)
	}
	return n
}

func (r *reader) vector(size int) reader { return reader{b: r.take(r.uint(size))} }

func parseHello(msg []byte) (h Hello, err error) {
	r := reader{b: msg}
	r.take(2 + 32) // legacy_version, random
	r.vector(1)    // legacy_session_id
	r.vector(2)    // cipher_suites
	r.vector(1)    // legacy_compression_methods
	if len(r.b) == 0 && !r.bad {
		return h, nil // no extensions: TLS 1.0 without SNI
	}
	exts := r.vector(2)
	for !r.bad && len(exts.b) > 0 {
		kind := exts.uint(2)
		body := exts.vector(2)
		if exts.bad {
			return h, ErrMalformed
		}
		switch kind {
		case extServerName:
			err = h.serverName(body)
		case extALPN:
			err = h.alpn(body)
		case extEarlyData:
			h.EarlyData = true
		}
		if err != nil {
			return h, err
		}
	}
	if r.bad {
		return h, ErrMalformed
	}
	return h, nil
}

func (h *Hello) serverName(r reader) error {
	list := r.vector(2)
	for len(list.b) > 0 {
		kind := list.uint(1)
		name := list.vector(2)
		if list.bad {
			return ErrMalformed
		}
		if kind != nameTypeHost {
			continue
		}
		if len(name.b) == 0 || len(name.b) > maxServerNameSize {
			return ErrMalformed
		}
		lower := make([]byte, len(name.b))
		for i, c := range name.b {
			if c <= ' ' || c >= 0x7f {
				return ErrMalformed
			}
			if c >= 'A' && c <= 'Z' {
				c |= 0x20
			}
			lower[i] = c
		}
		if lower[len(lower)-1] == '.' {
			lower = lower[:len(lower)-1]
		}
		h.ServerName = string(lower)
		return nil
	}
	if r.bad {
		return ErrMalformed
	}
	return nil
}

func (h *Hello) alpn(r reader) error {
	list := r.vector(2)
	for len(list.b) > 0 {
		p := list.vector(1)
		if list.bad || len(p.b) == 0 {
			return ErrMalformed
		}
		h.ALPN = append(h.ALPN, string(p.b))
	}
	if r.bad {
		return ErrMalformed
	}
	return nil
}
