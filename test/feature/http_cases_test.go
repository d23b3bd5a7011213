//go:build linux

package feature

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// part is a run of bytes, one for each character, that stands Repeat times (once if 0).
type part struct {
	Text   string `json:"text"`
	Repeat int    `json:"repeat"`
}

type requestCase struct {
	ID        string   `json:"id"`
	Verdict   string   `json:"verdict"`
	Bytes     []part   `json:"bytes"`
	Then      string   `json:"then"`
	MustClose bool     `json:"must_close"`
	Forbidden string   `json:"forbidden_upstream_regex"`
	Must      []string `json:"upstream_must_match"`
}

type responseCase struct {
	ID     string   `json:"id"`
	Method string   `json:"method"`
	Bytes  []part   `json:"upstream_bytes"`
	Then   string   `json:"then"`
	Want   string   `json:"want"`
	Must   []string `json:"client_must_match"`
}

func loadCases[T any](t *testing.T, name string) (cases []T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../testdata/http", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%s: %d cases, %v", name, len(cases), err)
	}
	return cases
}

// latin1 makes one byte of each character, chars one character of each byte.
func latin1(parts []part) (b []byte) {
	for _, p := range parts {
		var one []byte
		for _, r := range p.Text {
			one = append(one, byte(r))
		}
		b = append(b, bytes.Repeat(one, max(p.Repeat, 1))...)
	}
	return b
}

func chars(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		s.WriteRune(rune(c))
	}
	return s.String()
}

// longRepeat is a repetition that the regexp package refuses.
var longRepeat = regexp.MustCompile(`([a-z])\{(\d{4,})\}`)

func pattern(p string) *regexp.Regexp {
	return regexp.MustCompile(longRepeat.ReplaceAllStringFunc(p, func(s string) string {
		m := longRepeat.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	}))
}

func mustMatch(t *testing.T, what, got string, patterns []string) {
	t.Helper()
	for _, p := range patterns {
		if !pattern(p).MatchString(got) {
			t.Errorf("%s: %.600q does not match %s", what, got, p)
		}
	}
}

// upstream is a plain server that records what it receives. It answers 200, but to a path that ends in /case what the
// response case says.
type upstream struct {
	mu       sync.Mutex
	got      bytes.Buffer // since clear
	complete int          // messages since clear
	spoilt   map[net.Conn]bool
	misused  bool // a spoilt connection got another request
	answer   responseCase
}

func (u *upstream) clear(answer responseCase) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.got.Reset()
	u.complete, u.answer, u.misused = 0, answer, false
}

func (u *upstream) received() (raw string, complete int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return chars(u.got.Bytes()), u.complete
}

// Write records bytes as they are read from a connection.
func (u *upstream) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.got.Write(b)
}

func (u *upstream) serve(c net.Conn) {
	in := bufio.NewReader(io.TeeReader(c, u))
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		u.mu.Lock()
		u.complete++
		u.misused = u.misused || u.spoilt[c]
		answer := u.answer
		u.mu.Unlock()
		if !strings.HasSuffix(req.URL.Path, "/case") {
			body := "good"
			if req.Method == http.MethodHead {
				body = ""
			}
			if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n%s", body); err != nil {
				return
			}
			continue
		}
		if answer.Want != "pass" {
			u.mu.Lock()
			u.spoilt[c] = true
			u.mu.Unlock()
		}
		_, _ = c.Write(latin1(answer.Bytes))
		switch answer.Then {
		case "close":
			return
		case "rst":
			_ = c.(*net.TCPConn).SetLinger(0)
			return
		}
	}
}

// caseEntry declares a.test.
const caseEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: a-test
spec:
  hosts:
  - a.test
  location: MESH_EXTERNAL
  ports:
  - number: 80
    name: http
    protocol: HTTP
  resolution: STATIC
  endpoints:
  - address: 10.1.0.1
    ports:
      http: 8000
`

// caseWorld is the proxy, the upstream, and the two addresses that the cases go to.
func caseWorld(t *testing.T) (*world, *upstream, map[string]string) {
	t.Parallel()
	w := newWorld(t)
	u := &upstream{spoilt: map[net.Conn]bool{}}
	w.east.n.listen(t, "10.1.0.1:8000", u.serve)
	w.write("a.yaml", caseEntry)
	p := w.proxyIn("us-east1")
	w.captureOnce()
	return w, u, map[string]string{"forward proxy": forwardAddr, "captured": p.lookup("a.test").String() + ":80"}
}

// good sends a request that must work, on a new connection.
func good(t *testing.T, w *world, addr string) {
	t.Helper()
	x := exchange(t, w, addr, []byte("GET /good HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"), "")
	if len(x.responses) != 1 || x.responses[0].StatusCode != 200 || !strings.HasSuffix(x.raw, "\r\n\r\ngood") {
		t.Fatalf("a good request got %q", x.raw)
	}
}

// exchanged is what a client's connection brought.
type exchanged struct {
	raw       string
	responses []*http.Response // final ones, with their bodies read
	whole     bool             // the bytes end where the last response ends
	closed    bool             // the proxy closed without being told
}

// exchange sends bytes and collects what comes back. The client ends its side after the first answer, or at once where the
// case says fin, or once nothing came for a while where it is unclear whether anything will.
func exchange(t *testing.T, w *world, addr string, send []byte, then string) (x exchanged) {
	t.Helper()
	c, err := w.dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	methods := requestMethods(send)
	go func() { // a proxy that refuses early does not read it all
		_, _ = c.Write(send)
		if then == "fin" {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	var got bytes.Buffer
	var b [64 << 10]byte
	told := then == "fin"
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for {
		n, err := c.Read(b[:])
		got.Write(b[:n])
		x.responses, x.whole = parseResponses(got.Bytes(), methods)
		switch {
		case err == nil && !told && x.whole && len(x.responses) >= len(methods):
			// Is the connection still open? It gets a moment to close by itself.
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			continue
		case errors.Is(err, os.ErrDeadlineExceeded) && !told:
			told = true
			_ = c.(*net.TCPConn).CloseWrite()
			_ = c.SetReadDeadline(time.Now().Add(patience))
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("the connection hangs after %.300q", got.String())
		case err == nil:
			continue
		}
		x.closed = !told
		x.raw = chars(got.Bytes())
		return x
	}
}

// requestMethods lists the methods of the requests in the bytes, as far as they can be told.
func requestMethods(send []byte) (out []string) {
	for _, m := range regexp.MustCompile(`(?:^|\r\n|hello)([A-Z][A-Za-z-]*) [^\r\n]* HTTP/1`).FindAllSubmatch(send, -1) {
		out = append(out, string(m[1]))
	}
	if len(out) == 0 {
		out = []string{"GET"}
	}
	return out
}

func parseResponses(b []byte, methods []string) (out []*http.Response, whole bool) {
	in := bufio.NewReader(bytes.NewReader(b))
	for {
		if _, err := in.Peek(1); err != nil {
			return out, len(out) > 0
		}
		method := methods[min(len(out), len(methods)-1)]
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return out, false
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return out, false
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			out = append(out, resp)
		}
	}
}

// TestHTTPRequestCases sends every case's bytes to both listeners.
func TestHTTPRequestCases(t *testing.T) {
	w, u, addrs := caseWorld(t)
	for name, addr := range addrs {
		for _, c := range loadCases[requestCase](t, "request-cases.json") {
			t.Run(name+" "+c.ID, func(t *testing.T) {
				good(t, w, addr)
				u.clear(responseCase{})
				x := exchange(t, w, addr, latin1(c.Bytes), c.Then)
				raw, complete := u.received()
				judgeRequest(t, c, x, raw, complete)
				good(t, w, addr)
			})
		}
	}
}

func judgeRequest(t *testing.T, c requestCase, x exchanged, raw string, complete int) {
	t.Helper()
	refused := len(x.responses) == 1 && x.responses[0].StatusCode >= 400 && x.whole
	if n := len(requestMethods(latin1(c.Bytes))); len(x.responses) > n {
		t.Errorf("%d responses to %d requests: %q", len(x.responses), n, x.raw)
	}
	closes := x.closed || c.Then == "fin"
	switch c.Verdict {
	case "R":
		if !refused || !closes || raw != "" {
			t.Errorf("not refused: answer %.300q, closed %v, upstream got %.300q", x.raw, closes, raw)
		}
	case "B":
		if complete > 0 {
			t.Errorf("the upstream saw a complete message: %.300q", raw)
		}
		if !closes || x.raw != "" && !refused {
			t.Errorf("neither 400 nor an abort: %.300q, closed %v", x.raw, closes)
		}
	case "N":
		if c.Forbidden == "" {
			t.Fatal("the case forbids nothing")
		}
		if pattern(c.Forbidden).MatchString(raw) {
			t.Errorf("the upstream got %q", raw)
		}
		if len(x.responses) == 0 {
			t.Errorf("no answer: %q", x.raw)
		}
	case "A":
		want := len(requestMethods(latin1(c.Bytes)))
		if len(x.responses) != want || !x.whole || complete != want {
			t.Errorf("not accepted: answers %.300q; the upstream saw %d messages: %.300q", x.raw, complete, raw)
		}
		for _, r := range x.responses {
			if r.StatusCode/100 != 2 {
				t.Errorf("status %d", r.StatusCode)
			}
		}
		mustMatch(t, "the upstream", raw, c.Must)
	default:
		t.Fatalf("unknown verdict %q", c.Verdict)
	}
	if c.MustClose && len(x.responses) > 0 && !closes {
		t.Error("the connection stays open")
	}
}

// TestHTTPResponseCases has the upstream answer with every case's bytes, on both listeners.
func TestHTTPResponseCases(t *testing.T) {
	w, u, addrs := caseWorld(t)
	for name, addr := range addrs {
		for _, c := range loadCases[responseCase](t, "response-cases.json") {
			t.Run(name+" "+c.ID, func(t *testing.T) {
				good(t, w, addr)
				u.clear(c)
				x := exchange(t, w, addr, []byte(c.Method+" /case HTTP/1.1\r\nHost: a.test\r\n\r\n"), "")
				judgeResponse(t, c, x)
				for range 3 { // one of them would get the spoilt connection
					good(t, w, addr)
				}
				u.mu.Lock()
				defer u.mu.Unlock()
				if u.misused {
					t.Error("the upstream connection was used again")
				}
			})
		}
	}
}

func judgeResponse(t *testing.T, c responseCase, x exchanged) {
	t.Helper()
	looksComplete := len(x.responses) > 0 && x.whole
	failed := looksComplete && x.responses[0].StatusCode >= 500 || !looksComplete
	head, _, _ := strings.Cut(x.raw, "\r\n\r\n")
	if len(x.responses) > 1 {
		t.Errorf("more than one response: %q", x.raw)
	}
	switch c.Want {
	case "502":
		if !failed {
			t.Errorf("got %q", x.raw)
		}
	case "502|any":
	case "502|te":
		if !failed && regexp.MustCompile(`(?i)\r\ncontent-length:`).MatchString(head) {
			t.Errorf("forwarded with both: %q", x.raw)
		}
	case "502|clean":
		if !failed && (strings.ContainsAny(strings.ReplaceAll(head, "\r\n", ""), "\x00\r\n") || strings.Contains(head, " :")) {
			t.Errorf("forwarded: %q", x.raw)
		}
	case "abort":
		if looksComplete && x.responses[0].StatusCode < 500 {
			t.Errorf("looks complete: %q", x.raw)
		}
	case "noevil":
		if strings.Contains(x.raw, "EVIL") {
			t.Errorf("got %q", x.raw)
		}
	case "pass":
		mustMatch(t, "the client", x.raw, c.Must)
	default:
		t.Fatalf("unknown want %q", c.Want)
	}
}
