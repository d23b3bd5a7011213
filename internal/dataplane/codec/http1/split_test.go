package http1

import (
	"bytes"
	"testing"
)

// parser is ParseRequest or ParseResponse with what it asks for filled in.
type parser func(buf []byte, h *Head) (int, error)

func parseResponseTo(asked Asked) parser {
	return func(buf []byte, h *Head) (int, error) { return ParseResponse(buf, asked, h) }
}

// slowly shows ever longer beginnings of in, in the same buffer or in a new one each time.
func slowly(t *testing.T, parse parser, in []byte, h *Head, step int, move bool) (n int, err error) {
	t.Helper()
	for size := 1; size <= len(in); size += step {
		buf := in[:size]
		if move {
			buf = bytes.Clone(buf)
		}
		if n, err = parse(buf, h); n != 0 || err != nil {
			return n, err
		}
		if !move && size > 1 && h.p.pos < size-2 {
			t.Fatalf("%.60q: stands at %d after %d bytes: they will be looked at again", in, h.p.pos, size)
		}
	}
	return parse(in, h)
}

// sameHead compares all that a caller sees.
func sameHead(a, b *Head) bool {
	if describe(a) != describe(b) || !bytes.Equal(a.Raw, b.Raw) || a.Status != b.Status || !bytes.Equal(a.Reason, b.Reason) ||
		a.Minor != b.Minor || a.Length != b.Length || a.Tunnel != b.Tunnel || a.HostIndex != b.HostIndex ||
		a.fieldsAt != b.fieldsAt || len(a.Fields) != len(b.Fields) {
		return false
	}
	for i := range a.Fields {
		f, g := &a.Fields[i], &b.Fields[i]
		if !bytes.Equal(f.Name, g.Name) || !bytes.Equal(f.Value, g.Value) || !bytes.Equal(f.Line, g.Line) || f.ID != g.ID {
			return false
		}
	}
	return true
}

func checkSlowly(t *testing.T, parse parser, in []byte) {
	t.Helper()
	var whole Head
	n, err := parse(in, &whole)
	for _, how := range []struct {
		step int
		move bool
	}{{1, false}, {3, false}, {1, true}} {
		if how.move && len(in) > 2000 {
			continue // a new buffer for each byte is quadratic in the test itself
		}
		var h Head
		m, e := slowly(t, parse, in, &h, how.step, how.move)
		if m != n || e != err {
			t.Errorf("%.80q by %d, moving %v: %d, %v; at once %d, %v", in, how.step, how.move, m, e, n, err)
		} else if err == nil && n > 0 && !sameHead(&whole, &h) {
			t.Errorf("%.80q by %d, moving %v: got another head", in, how.step, how.move)
		}
	}
}

// TestSlowly: however the bytes of a head are cut, the outcome is that of all bytes at once, and no byte is looked at
// again but for a CR without its LF.
func TestSlowly(t *testing.T) {
	for _, c := range loadCases[requestCase](t, "request-cases.json") {
		checkSlowly(t, ParseRequest, latin1(c.Bytes))
	}
	for _, c := range loadCases[responseCase](t, "response-cases.json") {
		checkSlowly(t, parseResponseTo(Asked{Method: methodID([]byte(c.Method))}), latin1(c.Bytes))
	}
	checkSlowly(t, ParseRequest, browserRequest)
	checkSlowly(t, parseResponseTo(Asked{}), response)
	checkSlowly(t, ParseRequest, []byte("\r\n\r\nGET http://a?b HTTP/1.1\r\nHost: a\r\nX:\r\nConnection: x\r\n\r\n"))
}

// TestBodySlowly: the same for what follows the head.
func TestBodySlowly(t *testing.T) {
	for _, c := range loadCases[requestCase](t, "request-cases.json") {
		in := latin1(c.Bytes)
		var h Head
		n, err := ParseRequest(in, &h)
		if n == 0 || err != nil {
			continue
		}
		var b Body
		b.Start(h.Framing, h.Length)
		payload, meta, trailers, rest, err := events(&b, in[n:], func(n int) int { return n })
		for step := 1; step < 4; step++ {
			b.Start(h.Framing, h.Length)
			p, m, tr, r, e := events(&b, in[n:], func(left int) int { return min(step, left) })
			if p != payload || tr != trailers || e != err || err == nil && (m != meta || r != rest) {
				t.Errorf("%s by %d: %q, %q, %q, %d, %v", c.ID, step, p, m, tr, r, e)
			}
		}
	}
}

// TestReset: a Head with an unfinished parse serves for other bytes in the same buffer after Reset.
func TestReset(t *testing.T) {
	buf := make([]byte, 64)
	var h Head
	copy(buf, "GET /first HTTP/1.1\r\nHo")
	if n, err := ParseRequest(buf[:23], &h); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	h.Reset()
	second := "GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
	copy(buf, second)
	if n, err := ParseRequest(buf[:len(second)], &h); n != len(second) || err != nil || string(h.Path) != "/second" {
		t.Errorf("%d, %v, %q", n, err, h.Path)
	}
	if n, err := ParseRequest(nil, &h); n != 0 || err != nil {
		t.Errorf("no bytes: %d, %v", n, err)
	}
	if n, err := ParseResponse(nil, Asked{}, &h); n != 0 || err != nil {
		t.Errorf("no bytes: %d, %v", n, err)
	}
}

// TestResumes: what was seen isn't looked at again, which shows when it is damaged afterwards.
func TestResumes(t *testing.T) {
	buf := []byte("GET /a HTTP/1.1\r\nHost: a\r\nX: yyyy\r\n\r\n")
	var h Head
	if n, err := ParseRequest(buf[:31], &h); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	for i := range buf[:16] { // the request line
		buf[i] = 0
	}
	if n, err := ParseRequest(buf, &h); n != len(buf) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestShrunk: fewer bytes than before in the same buffer (the driver took some away) start over.
func TestShrunk(t *testing.T) {
	buf := []byte("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	var h Head
	if n, err := ParseRequest(buf[:20], &h); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := ParseRequest(buf[:5], &h); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := ParseRequest(buf, &h); n != len(buf) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestNoAllocations holds the promise of the package comment.
func TestNoAllocations(t *testing.T) {
	var h, rh Head
	var b Body
	dst := make([]byte, 0, 4096)
	chunks := []byte("5;x\r\nhello\r\n0\r\nX: y\r\n\r\n")
	bad := []byte("GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
	absolute := []byte("GET http://[::1]?q HTTP/1.1\r\nHost: a\r\n\r\n")
	steps := map[string]func(){
		"small request":   func() { _, _ = ParseRequest(smallRequest, &h); dst = AppendRequest(dst[:0], &h, RequestRewrite{}) },
		"browser request": func() { _, _ = ParseRequest(browserRequest, &h); dst = AppendRequest(dst[:0], &h, RequestRewrite{}) },
		"absolute form":   func() { _, _ = ParseRequest(absolute, &h); dst = AppendRequest(dst[:0], &h, RequestRewrite{}) },
		"refusal":         func() { _, _ = ParseRequest(bad, &h) },
		"response": func() {
			_, _ = ParseResponse(response, h.Asked(), &rh)
			dst = AppendResponse(dst[:0], &rh, ResponseRewrite{Minor: 1, Close: true})
		},
		"bad response": func() { _, _ = ParseResponse(bad, Asked{}, &rh) },
		"body":         func() { b.Start(Chunked, 0); _, _, _ = b.Forward(chunks) },
		"chunk":        func() { dst = AppendLastChunk(AppendChunk(dst[:0], chunks), nil) },
		"local reply":  func() { dst = AppendLocalReply(dst[:0], 503, "no healthy upstream", true, false) },
	}
	for name, step := range steps {
		step()
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
