package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
)

// wholeBody decodes a body with Next and checks that Forward agrees with it; ok: it was complete. closed: the peer closed
// after in.
func wholeBody(t *testing.T, h *Head, in []byte, closed bool) (payload []byte, ok bool) {
	t.Helper()
	var b Body
	b.Start(h.Framing, h.Length)
	var raw []byte
	for rest := in; ; {
		kind, n, err := b.Next(rest)
		if n < 0 || n > len(rest) || n == 0 && kind != Need && kind != Done {
			t.Fatalf("%q: %v of %d bytes in %d", in, kind, n, len(rest))
		}
		if err != nil || kind == Need {
			ok = err == nil && closed && b.EOF() == nil
			break
		}
		if kind == Done {
			ok = true
			break
		}
		if kind == Data {
			payload = append(payload, rest[:n]...)
		}
		raw = append(raw, rest[:n]...)
		rest = rest[n:]
	}
	drops := false
	for i := range b.Trailers {
		drops = drops || b.Trailers[i].Drop
	}
	b.Start(h.Framing, h.Length)
	n, done, err := b.Forward(in)
	if ok && !drops && (n != len(raw) || err != nil || done != (h.Framing != UntilClose)) {
		t.Fatalf("%q: Forward took %d of %d, %v, %v", in, n, len(raw), done, err)
	}
	if done && !ok {
		t.Fatalf("%q: Forward says done, Next does not", in)
	}
	return payload, ok
}

func FuzzRequest(f *testing.F) {
	for _, c := range loadCases[requestCase](f, "request-cases.json") {
		if in := latin1(c.Bytes); len(in) < 4096 {
			f.Add(in)
		}
	}
	f.Add(smallRequest)
	f.Add(browserRequest)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 2000 {
			checkSlowly(t, ParseRequest, in)
		}
		var h Head
		n, err := ParseRequest(in, &h)
		if err != nil || n == 0 {
			return
		}
		if !bytes.HasSuffix(in[:n], h.Raw) || len(bytes.Trim(in[:n-len(h.Raw)], "\r\n")) != 0 {
			t.Fatalf("%q: Raw is %q", in, h.Raw)
		}
		requestAgain(t, &h)
		body, ok := wholeBody(t, &h, in[n:], false)
		if !ok {
			return
		}
		sameAsNetHTTP(t, &h, in[n-len(h.Raw):], body)
	})
}

// requestAgain: what goes upstream means what came, is Clean, and passes the next hop unchanged.
func requestAgain(t *testing.T, h *Head) {
	t.Helper()
	rw := RequestRewrite{}
	if h.Authority == nil {
		rw.Authority = []byte("a.test")
	}
	out := AppendRequest(nil, h, rw)
	if len(out) > MaxHead || len(h.Fields) == MaxFields {
		return // what was added may be too much for the next hop
	}
	var g Head
	n, err := ParseRequest(out, &g)
	if err != nil || n != len(out) {
		t.Fatalf("%q goes on as %q: %d, %v", h.Raw, out, n, err)
	}
	if !bytes.Equal(g.Method, h.Method) || g.Framing != h.Framing || g.Length != h.Length || !bytes.Equal(g.Upgrade, h.Upgrade) ||
		h.Authority != nil && !bytes.Equal(g.Authority, h.Authority) || !h.escape && !bytes.Equal(g.Path, h.Path) ||
		h.ExpectContinue && !g.ExpectContinue || !g.KeepAlive {
		t.Fatalf("%q goes on as %q, which means something else", h.Raw, out)
	}
	if g.Clean != (g.Upgrade == nil && g.Form != AuthorityForm) {
		t.Fatalf("%q: not clean", out)
	}
	if again := AppendRequest(nil, &g, RequestRewrite{}); !bytes.Equal(again, out) {
		t.Fatalf("%q goes on as %q", out, again)
	}
}

// sameAsNetHTTP: where net/http accepts the request too, it sees the same one.
func sameAsNetHTTP(t *testing.T, h *Head, in, body []byte) {
	t.Helper()
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil {
		return
	}
	theirs, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if req.Method != string(h.Method) || !bytes.Equal(theirs, body) {
		t.Fatalf("%q: net/http sees %s with %q, we %s with %q", in, req.Method, theirs, h.Method, body)
	}
	if req.Host != string(h.Authority) && !bytes.ContainsRune(h.Authority, '%') { // net/url decodes a host
		t.Fatalf("%q: net/http sees host %q, we %q", in, req.Host, h.Authority)
	}
	if chunked := len(req.TransferEncoding) > 0; chunked != (h.Framing == Chunked) || !chunked && req.ContentLength != h.Length {
		t.Fatalf("%q: net/http sees %v, %d, we %v, %d", in, req.TransferEncoding, req.ContentLength, h.Framing, h.Length)
	}
}

func FuzzResponse(f *testing.F) {
	for _, c := range loadCases[responseCase](f, "response-cases.json") {
		f.Add(latin1(c.Bytes), byte(methodID([]byte(c.Method))), false)
	}
	f.Add(response, byte(GET), false)
	f.Add([]byte("HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), byte(GET), true)
	f.Fuzz(func(t *testing.T, in []byte, method byte, upgrade bool) {
		asked := Asked{Method: MethodID(method % byte(PATCH+1)), Upgrade: upgrade}
		if len(in) < 2000 {
			checkSlowly(t, parseResponseTo(asked), in)
		}
		var h Head
		n, err := ParseResponse(in, asked, &h)
		if err != nil || n == 0 {
			return
		}
		for minor := range uint8(2) {
			responseAgain(t, &h, asked, minor)
		}
		body, ok := wholeBody(t, &h, in[n:], true)
		if !ok || h.Tunnel {
			return
		}
		req := &http.Request{Method: map[bool]string{true: "HEAD", false: "GET"}[asked.Method == HEAD]}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), req)
		if err != nil {
			return
		}
		theirs, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != h.Status || !bytes.Equal(theirs, body)) {
			t.Fatalf("%q: net/http sees %d with %q, we %d with %q", in, resp.StatusCode, theirs, h.Status, body)
		}
	})
}

// responseAgain: what goes to the client means what came, framed as Downstream says.
func responseAgain(t *testing.T, h *Head, asked Asked, minor uint8) {
	t.Helper()
	rw := ResponseRewrite{Minor: minor, Chunk: true}
	if minor == 0 && h.Status/100 == 1 {
		return
	}
	out := AppendResponse(nil, h, rw)
	if len(out) > MaxResponseHead || len(h.Fields) == MaxFields {
		return
	}
	framing, mustClose := rw.Downstream(h)
	var g Head
	n, err := ParseResponse(out, asked, &g)
	if err != nil || n != len(out) {
		t.Fatalf("%q goes on as %q: %d, %v", h.Raw, out, n, err)
	}
	if g.Status != h.Status || !bytes.Equal(g.Reason, h.Reason) || g.Framing != framing || g.Length != h.Length ||
		g.Tunnel != h.Tunnel || g.KeepAlive == mustClose || minor == 1 && !bytes.Equal(g.Upgrade, h.Upgrade) {
		t.Fatalf("%q goes on as %q, which means something else", h.Raw, out)
	}
}

func FuzzChunk(f *testing.F) {
	for _, b := range bodies {
		if len(b.in) < 4096 {
			f.Add([]byte(b.in), byte(1))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, step byte) {
		h := Head{Framing: Chunked}
		payload, ok := wholeBody(t, &h, in, false)
		var b Body
		b.Start(Chunked, 0)
		size := int(step)%7 + 1
		pieces, _, _, _, err := events(&b, in, func(left int) int { return min(size, left) })
		if pieces != string(payload) || ok != (err == nil) {
			t.Fatalf("%q by %d: %q, %v; at once %q, %v", in, size, pieces, err, payload, ok)
		}
		if !ok {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in)))
		if err != nil && !strings.Contains(err.Error(), "too much non-data") && !strings.Contains(err.Error(), "too long") {
			t.Fatalf("%q: net/http refuses it: %v", in, err)
		}
		if err == nil && !bytes.Equal(theirs, payload) {
			t.Fatalf("%q: net/http reads %q, we %q", in, theirs, payload)
		}
	})
}
