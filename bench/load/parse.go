//go:build linux

package load

import "bytes"

// head is what the generator needs of a response's head.
type head struct {
	size   int // bytes, the empty line included
	status int
	length int64 // -1: no Content-Length
}

// parseHead reads a response's head; ok is false while it is not complete. A malformed one has status 0.
func parseHead(b []byte) (h head, ok bool) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return head{}, false
	}
	h = head{size: end + 4, length: -1}
	b = b[:end+2]
	if len(b) < 14 || string(b[:7]) != "HTTP/1." {
		return h, true
	}
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			h.status = 0
			return h, true
		}
		h.status = h.status*10 + int(c-'0')
	}
	for {
		i := bytes.IndexByte(b, '\n')
		b = b[i+1:]
		if len(b) < 15 {
			return h, true
		}
		if b[0]|0x20 == 'c' && b[14] == ':' && bytes.EqualFold(b[:15], []byte("content-length:")) {
			h.length = number(b[15:])
		}
	}
}

// number reads a decimal number after spaces, up to 15 digits; -1 if there is none.
func number(b []byte) int64 {
	b = bytes.TrimLeft(b, " \t")
	n, digits := int64(0), 0
	for digits < len(b) && b[digits] >= '0' && b[digits] <= '9' {
		n = n*10 + int64(b[digits]-'0')
		if digits++; digits > 15 {
			return -1
		}
	}
	if digits == 0 {
		return -1
	}
	return n
}
