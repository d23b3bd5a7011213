package httpinspector

import (
	"strings"
	"testing"
)

// TestParse: what a real Envoy 1.40 was seen to take these for.
func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n": HTTP11,
		"GET / HTTP/1.1\r":                  HTTP11,
		"GET / HTTP/1.1\nHost: x\n\n":       HTTP11,
		"GET  /  HTTP/1.1 \r\n":             HTTP11,
		"get / HTTP/1.1\r\n":                HTTP11,
		"FOO http://x/ HTTP/1.1\r\n":        HTTP11,
		"GET / HTTP/1.0\r\n":                HTTP10,
		preface:                             H2C,
		preface + "more":                    H2C,
		"GET / HTTP/1.2\r\n":                None,
		"GET / HTTP/2.0\r\n":                None,
		"GET /\r\n":                         None,
		"A B C\r\n":                         None,
		"hello\r\n":                         None,
		"SSH-2.0-OpenSSH\r\n":               None,
		"*1\r\n$4\r\nPING\r\n":              None,
		"\r\nGET / HTTP/1.1\r\n":            None,
		"\x00\x01":                          None,
		" GET / HTTP/1.1\r\n":               None,
		"GET HTTP/1.1\r\n":                  None,
		strings.Repeat("A", MaxLine):        None,
		"":                                  "",
		"hello":                             "",
		"GET / HTTP/1.1":                    "",
		"*1":                                "",
		preface[:len(preface)-1]:            "",
		strings.Repeat("A", MaxLine-1):      "",
	} {
		got, ok := Parse([]byte(in))
		if ok != (want != "") || ok && got != want {
			t.Errorf("%.40q: %s, %v; want %s", in, got, ok, want)
		}
	}
}

// FuzzParse: what is decided stays decided however much follows.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", preface, "\x16\x03\x01", "PRI * HTTP/2.0\r\nx", "hello\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := Parse(b)
		more, still := Parse(append(b[:len(b):len(b)], "GET / HTTP/1.1\r\n"...))
		if ok && (!still || more != got) {
			t.Errorf("%s, then %s, %v", got, more, still)
		}
	})
}
