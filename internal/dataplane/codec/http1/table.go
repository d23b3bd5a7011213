package http1

import (
	"encoding/binary"
	"math/bits"
)

// Classes of bytes, as bits of class.
const (
	isToken   = 1 << iota // tchar, RFC 9110 §5.6.2
	isTarget              // printable ASCII that may stand raw in a request target: all but '#'
	isRegName             // unreserved and sub-delims of a reg-name, RFC 3986 §3.2.2; '%' is looked at apart
	isDigit
	isHex
	isText // what a field value, a reason phrase or a chunk extension may hold: HTAB, SP, VCHAR, obs-text
)

var class = func() (t [256]uint8) {
	set := func(bit uint8, s string) {
		for i := 0; i < len(s); i++ {
			t[s[i]] |= bit
		}
	}
	for c := 0; c < 256; c++ {
		alpha := c|0x20 >= 'a' && c|0x20 <= 'z' && c < 0x80
		digit := c >= '0' && c <= '9'
		if alpha || digit {
			t[c] |= isToken | isRegName
		}
		if digit {
			t[c] |= isDigit | isHex
		}
		if c > 0x20 && c < 0x7f && c != '#' {
			t[c] |= isTarget
		}
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= isText
		}
	}
	set(isToken, "!#$%&'*+-.^_`|~")
	set(isRegName, "-._~!$&'()*+,;=")
	set(isHex, "abcdefABCDEF")
	return t
}()

// fold maps a byte of a field name to lower case and '_' to '-', as gateways do that turn names into variables.
var fold = func() (t [256]uint8) {
	for c := range t {
		t[c] = uint8(c)
		if c >= 'A' && c <= 'Z' {
			t[c] |= 0x20
		}
	}
	t['_'] = '-'
	return t
}()

// hexValue is the value of a hexadecimal digit; only asked for bytes of the class isHex.
func hexValue(c byte) int64 {
	if c <= '9' {
		return int64(c - '0')
	}
	return int64(c|0x20-'a') + 10
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// scanText returns the index, from i on, of the first byte that is not text (class isText), or len(b). Eight bytes are
// looked at together: the lowest flag of each mask is exact, because a borrow starts only at a flagged byte.
func scanText(b []byte, i int) int {
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		y := x ^ ones*0x7f
		m := ((x-ones*0x20)&^x | (y-ones)&^y) & highs
		if m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m) >> 3
		if b[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(b) && class[b[i]]&isText != 0 {
		i++
	}
	return i
}

// EqualFold tells whether name is lower, ASCII case aside. lower must be in lower case.
func EqualFold(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// equalFoldBytes is EqualFold for two names as received.
func equalFoldBytes(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		d := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if d >= 'A' && d <= 'Z' {
			d |= 0x20
		}
		if c != d {
			return false
		}
	}
	return true
}

// trim removes OWS (SP, HTAB) at both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
