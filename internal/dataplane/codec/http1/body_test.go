package http1

import (
	"fmt"
	"strings"
	"testing"
)

// events feeds in to a Body piece by piece, each piece with what was left of those before, and renders what came out.
func events(b *Body, in []byte, cut func(n int) int) (payload, meta, trailers string, rest int, err error) {
	at, seen := 0, 0
	for {
		kind, n, e := b.Next(in[at:seen])
		switch {
		case e != nil:
			return payload, meta, trailers, len(in) - at, e
		case kind == Done:
			return payload, meta, trailers, len(in) - at, nil
		case kind == Need && seen == len(in):
			return payload, meta, trailers, len(in) - at, ErrTruncated
		case kind == Need:
			seen += cut(len(in) - seen)
		case kind == Data:
			payload += string(in[at : at+n])
		case kind == Meta:
			meta += string(in[at : at+n])
		case kind == Trailers:
			for _, f := range b.Trailers {
				trailers += fmt.Sprintf("%s=%s", f.Name, f.Value)
				if f.Drop {
					trailers += "-"
				}
				trailers += " "
			}
		}
		at += n
	}
}

// bodies are chunked bodies with what must come of them.
var bodies = []struct {
	in       string
	payload  string
	trailers string
	rest     int
	err      error
}{
	{"0\r\n\r\n", "", "", 0, nil},
	{"5\r\nhello\r\n0\r\n\r\nGET", "hello", "", 3, nil},
	{"a\r\n0123456789\r\n00000000000000A;x=\"y\" ; z\r\n0123456789\r\n000\r\n\r\n", "01234567890123456789", "", 0, nil},
	{"1;\r\na\r\n0; \xff \r\n\r\n", "a", "", 0, nil},
	{"1\r\na\r\n0\r\nX-T: v\r\nx-u:w \r\n\r\n", "a", "X-T=v x-u=w ", 0, nil},
	{"0\r\nContent-Length: 9\r\nX: y\r\nauthorization: z\r\nIf-Match: *\r\n\r\n", "",
		"Content-Length=9- X=y authorization=z- If-Match=*- ", 0, nil},
	{"5\r\nhel", "hel", "", 0, ErrTruncated},
	{"5\r\nhello\r\n", "hello", "", 0, ErrTruncated},
	{"0\r\n", "", "", 0, ErrTruncated},
	{"0\r\n\r", "", "", 1, ErrTruncated},
	{"0\r\nX: y\r\n", "", "", 6, ErrTruncated},
	{"", "", "", 0, ErrTruncated},

	{"\r\n", "", "", 2, errChunkSize},
	{"g\r\n", "", "", 3, errChunkSize},
	{"-1\r\n", "", "", 4, errChunkSize},
	{"+1\r\n", "", "", 4, errChunkSize},
	{" 1\r\n", "", "", 4, errChunkSize},
	{"0x1\r\n", "", "", 0, errChunkSize},
	{"1_0\r\n", "", "", 0, errChunkSize},
	{"1 ;x\r\na\r\n", "", "", 0, errChunkSize},
	{"1 \r\na\r\n", "", "", 0, errChunkSize},
	{"1 1\r\n", "", "", 0, errChunkSize},
	{"1\na", "", "", 0, errChunkSize},
	{"1\r\r", "", "", 0, errChunkSize},
	{"8000000000000000\r\n", "", "", 0, errChunkSize},
	{"00000000000000001\r\n", "", "", 0, errChunkSize},
	{"1;a\nb\r\n", "", "", 0, errChunkExt},
	{"1;a\x00\r\n", "", "", 0, errChunkExt},
	{"1;a\rb\r\n", "", "", 0, errChunkSize},
	{"1\r\nab\r\n", "a", "", 0, errChunkEnd},
	{"1\r\na\n0\r\n\r\n", "a", "", 0, errChunkEnd},
	{"1\r\na\r0\r\n\r\n", "a", "", 0, errChunkEnd},
	{"0\r\n\n", "", "", 0, errBareLF},
	{"0\r\nX : y\r\n\r\n", "", "", 0, errName},
	{"0\r\nContent_Length: 1\r\n\r\n", "", "", 0, errUnderscore},
	{"0\r\n" + strings.Repeat("X: y\r\n", MaxFields+1) + "\r\n", "", "", 0, errTooManyFields},
	{"0\r\nX: " + strings.Repeat("y", MaxHead) + "\r\n\r\n", "", "", 0, errTrailers},
	{"1;" + strings.Repeat("a", MaxChunkExtensions-1) + "\r\na\r\n0\r\n\r\n", "a", "", 0, nil},
	{"1;" + strings.Repeat("a", MaxChunkExtensions-1) + "\r\na\r\n0;\r\n\r\n", "a", "", 0, errChunkExtLong},
	{"1;" + strings.Repeat("a", MaxChunkExtensions-2) + "\r\na\r\n0;;\r\n\r\n", "a", "", 0, errChunkExtLong},
}

func TestChunked(t *testing.T) {
	all := func(n int) int { return n }
	one := func(int) int { return 1 }
	for _, tt := range bodies {
		for name, cut := range map[string]func(int) int{"whole": all, "byte by byte": one} {
			var b Body
			b.Start(Chunked, 0)
			payload, _, trailers, rest, err := events(&b, []byte(tt.in), cut)
			if err != tt.err || payload != tt.payload || trailers != tt.trailers {
				t.Errorf("%.40q %s: payload %q, trailers %q, %v", tt.in, name, payload, trailers, err)
			}
			if tt.err == nil && (rest != tt.rest || !b.Done() || b.EOF() != nil) {
				t.Errorf("%.40q %s: %d bytes left, want %d", tt.in, name, rest, tt.rest)
			}
			if tt.err == ErrTruncated && (b.EOF() != ErrTruncated || b.Done()) {
				t.Errorf("%.40q %s: not truncated", tt.in, name)
			}
		}
	}
}

// TestForward: Forward passes on what Next calls Data and Meta, up to a trailer section with fields to drop.
func TestForward(t *testing.T) {
	for _, tt := range bodies {
		var b, c Body
		b.Start(Chunked, 0)
		c.Start(Chunked, 0)
		n, done, err := b.Forward([]byte(tt.in))
		payload, meta, trailers, rest, _ := events(&c, []byte(tt.in), func(n int) int { return n })
		switch {
		case tt.err == nil && strings.Contains(trailers, "- "):
			if done || err != nil || n != len(payload)+len(meta) {
				t.Errorf("%.40q: %d, %v, %v before a section with fields to drop", tt.in, n, done, err)
			}
			if kind, m, err := b.Next([]byte(tt.in)[n:]); kind != Trailers || n+m != len(tt.in)-tt.rest || err != nil {
				t.Errorf("%.40q: %v, %d, %v after Forward", tt.in, kind, m, err)
			}
			if got := string(AppendLastChunk(nil, b.Trailers)); got != "0\r\nX: y\r\n\r\n" {
				t.Errorf("trailers go on as %q", got)
			}
		case tt.err == nil:
			if !done || err != nil || n != len(tt.in)-rest {
				t.Errorf("%.40q: %d, %v, %v", tt.in, n, done, err)
			}
		case tt.err == ErrTruncated:
			if done || err != nil || n != len(payload)+len(meta) {
				t.Errorf("%.40q: %d, %v, %v of a truncated body", tt.in, n, done, err)
			}
		default:
			if done || err != tt.err || n < len(payload) {
				t.Errorf("%.40q: %d, %v, %v, want %v", tt.in, n, done, err, tt.err)
			}
		}
	}
}

func TestLengthAndClose(t *testing.T) {
	var b Body
	if kind, n, err := b.Next([]byte("x")); kind != Done || n != 0 || err != nil || b.EOF() != nil {
		t.Errorf("zero Body: %v, %d, %v", kind, n, err)
	}
	for _, framing := range []Framing{NoBody, ContentLength} {
		b.Start(framing, 0)
		if n, done, err := b.Forward([]byte("GET")); n != 0 || !done || err != nil || b.Remaining() != 0 {
			t.Errorf("empty body: %d, %v, %v", n, done, err)
		}
	}

	b.Start(ContentLength, 5)
	if n, done, _ := b.Forward(nil); n != 0 || done || b.Remaining() != 5 || b.EOF() != ErrTruncated {
		t.Errorf("before the first byte: %d, %v, %d left", n, done, b.Remaining())
	}
	if kind, n, err := b.Next([]byte("he")); kind != Data || n != 2 || err != nil || b.Remaining() != 3 {
		t.Errorf("Next: %v, %d, %v, %d left", kind, n, err, b.Remaining())
	}
	b.Skip(1)
	if n, done, err := b.Forward([]byte("loGET")); n != 2 || !done || err != nil || b.EOF() != nil {
		t.Errorf("Forward: %d, %v, %v", n, done, err)
	}

	b.Start(UntilClose, 0)
	if n, done, err := b.Forward([]byte("hello")); n != 5 || done || err != nil || b.Remaining() != -1 {
		t.Errorf("until close: %d, %v, %v", n, done, err)
	}
	if b.Skip(7); b.Done() || b.EOF() != nil || !b.Done() {
		t.Error("until close: the end")
	}

	b.Start(Chunked, 0)
	if n, _, _ := b.Forward([]byte("5\r\nh")); n != 4 || b.Remaining() != 4 {
		t.Errorf("chunked: %d, %d left", n, b.Remaining())
	}
	b.Skip(4)
	if n, done, err := b.Forward([]byte("\r\n0\r\n\r\n")); n != 7 || !done || err != nil {
		t.Errorf("chunked after Skip: %d, %v, %v", n, done, err)
	}
}

func TestAppendChunk(t *testing.T) {
	got := AppendChunk(nil, []byte("0123456789abcdef!"))
	got = AppendChunk(got, nil)
	got = AppendLastChunk(got, nil)
	if want := "11\r\n0123456789abcdef!\r\n0\r\n\r\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
