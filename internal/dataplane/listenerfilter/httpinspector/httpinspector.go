// Package httpinspector tells from a connection's first bytes whether it speaks HTTP. It peeks only, as Envoy's
// envoy.filters.listener.http_inspector does.
package httpinspector

import (
	"bytes"
	"strings"
)

// MaxLine is how many bytes a request line may have before the connection counts as none of HTTP (Envoy's
// Config::MAX_INSPECT_SIZE).
const MaxLine = 64 << 10

// Protocols as filter_chain_match.application_protocols names them.
const (
	HTTP11 = "http/1.1"
	HTTP10 = "http/1.0"
	H2C    = "h2c"
	// None is what is no HTTP, or HTTP of another version.
	None = "none"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 §3.4

// Parse looks at what has come so far. ok is false while more bytes are needed. What follows the version on the request
// line does not matter, nor whether the rest of the head is good.
func Parse(b []byte) (protocol string, ok bool) {
	n := min(len(b), len(preface))
	if string(b[:n]) == preface[:n] {
		return H2C, n == len(preface)
	}
	if len(b) == 0 {
		return None, false
	}
	end := bytes.IndexAny(b, "\r\n")
	if end < 0 {
		return None, !isToken(b[:1]) || len(b) >= MaxLine
	}
	method, rest, _ := bytes.Cut(b[:end], []byte(" "))
	target, version, found := bytes.Cut(bytes.Trim(rest, " \t"), []byte(" "))
	if version = bytes.TrimLeft(version, " \t"); !found || len(target) == 0 || !isToken(method) {
		return None, true
	}
	switch string(version) {
	case "HTTP/1.1":
		return HTTP11, true
	case "HTTP/1.0":
		return HTTP10, true
	}
	return None, true
}

// isToken: RFC 9110 §5.6.2.
func isToken(b []byte) bool {
	for _, c := range b {
		if l := c | 0x20; (l < 'a' || l > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return len(b) > 0
}
