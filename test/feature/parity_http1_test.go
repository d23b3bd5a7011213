//go:build linux

package feature

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// raw sends bytes on a connection of their own and notes the answer: of what the proxy itself finds wrong with them the
// status alone, since the reason is in words of its own.
func (a *actor) raw(request string) {
	a.t.Helper()
	const addr = "10.200.32.1:80"
	c, err := a.dial(addr)
	if err != nil {
		a.t.Fatal(err)
	}
	cl := caller{a: a, conn: c, to: addr, reader: bufio.NewReader(c)}
	defer cl.hangUp()
	_ = c.SetDeadline(time.Now().Add(patience))
	method, _, _ := strings.Cut(request, " ")
	answer := "no answer"
	if _, err = io.WriteString(c, request); err == nil {
		answer, _, err = cl.receive(method)
	}
	switch {
	case err != nil:
		answer = "no answer, or not to its end"
	case strings.HasPrefix(answer, "4") && strings.Contains(answer, "content-type: text/plain"):
		answer, _, _ = strings.Cut(answer, " ")
	}
	answer = strings.Replace(answer, " | transfer-encoding: chunked", "", 1) // or until the connection's end, where the endpoint gave no length
	a.note("%.100q, %d bytes -> %.200s", request, len(request), answer)
	for _, r := range a.takeArrivals() {
		a.note("  %s got %.300s", r.endpoint, r.text)
	}
}

// TestParityRequests: forms of requests, and bytes that are none. What only an Envoy takes (lines that end in LF, folded
// lines, several Hosts) or only detour does (methods of any name, bytes above 0x7f in a path) is not among them.
func TestParityRequests(t *testing.T) {
	const host = "Host: http1.test\r\n"
	heads := []string{
		"GET / HTTP/1.1\r\n" + host, "GET http://http1.test HTTP/1.1\r\n" + host, "GET HTTP://http1.test/x?y HTTP/1.1\r\n" + host,
		"GET https://http1.test/x HTTP/1.1\r\n" + host, "GET http://http1.test/ HTTP/1.1\r\nHost: else.test\r\n", "GET //http1.test/x HTTP/1.1\r\n" + host,
		"GET ftp://http1.test/x HTTP/1.1\r\n" + host, "GET * HTTP/1.1\r\n" + host, "GET /a b HTTP/1.1\r\n" + host, "GET /\x01 HTTP/1.1\r\n" + host,
		"GET /\" HTTP/1.1\r\n" + host, "GET /a\\b HTTP/1.1\r\n" + host, "GET /%00%zz HTTP/1.1\r\n" + host, "GET /a/./b/../c//d HTTP/1.1\r\n" + host,
		"GET / HTTP/1.1\r\nHost: HTTP1.test.\r\n", "GET / HTTP/1.1\r\nHost: http1.test:81\r\n", "GET / HTTP/1.1\r\nHost: 10.200.32.1\r\n",
		"GET / HTTP/1.1\r\nHost: a b\r\n", "GET / HTTP/1.1\r\nHost: http1.test/x\r\n",
		"GET / HTTP/1.1\r\n" + host + "x y: 1\r\n", "GET / HTTP/1.1\r\n" + host + "x: a\x00b\r\n", "GET / HTTP/1.1\r\n" + host + "x: a\x01b\r\n",
		"GET / HTTP/1.1\r\n" + host + "x: a\x80b\r\n", "GET / HTTP/1.1\r\n" + host + "x: a\tb\r\n", "GET / HTTP/1.1\r\n" + host + "x : 1\r\n",
		"GET / HTTP/1.1\r\n" + host + ": 1\r\n", "GET / HTTP/1.1\r\n" + host + "x\r\n", "GET / HTTP/1.1\r\n" + host + "x_y: 1\r\n",
		"GET / HTTP/1.1\r\n" + host + "x(y): 1\r\n", "GET / HTTP/1.1\r\n" + host + ":path: /x\r\n", "TRACE / HTTP/1.1\r\n" + host, "PROPFIND / HTTP/1.1\r\n" + host,
		"POST / HTTP/1.1\r\n" + host, "DELETE / HTTP/1.1\r\n" + host + "content-length: 0\r\n", "HEAD / HTTP/1.1\r\n" + host,
		"GET / HTTP/1.1\r\n" + host + "connection: close\r\n", "GET / HTTP/1.1\r\n" + host + "connection: x-one\r\nx-one: 1\r\n",
		"GET / HTTP/1.1\r\n" + host + "connection: keep-alive\r\nkeep-alive: 1\r\n", "GET / HTTP/1.1\r\n" + host + "te: gzip\r\n",
		"GET / HTTP/1.1\r\n" + host + "trailer: x\r\n", "GET / HTTP/1.1\r\n" + host + "proxy-connection: keep-alive\r\n", "GET / HTTP/1.1\r\n" + host + "upgrade: foo\r\n",
		"GET / HTTP/1.1\r\n" + host + "x: " + strings.Repeat("x", 50000) + "\r\n", "GET / HTTP/1.1\r\n" + host + "x: " + strings.Repeat("x", 62000) + "\r\n",
		"GET /" + strings.Repeat("x", 50000) + " HTTP/1.1\r\n" + host, "GET / HTTP/1.1\r\n" + host + strings.Repeat("x: 1\r\n", 90), "GET / HTTP/1.1\r\n" + host + strings.Repeat("x: 1\r\n", 101),
	}
	bodies := []string{
		"content-length: 3\r\n\r\nabc", "content-length: 03\r\n\r\nabc", "content-length: 3\r\ncontent-length: 3\r\n\r\nabc", "content-length: 3, 3\r\n\r\nabc",
		"content-length: +3\r\n\r\nabc", "content-length: 0x3\r\n\r\nabc", "content-length: -1\r\n\r\nabc", "content-length: 99999999999999999999\r\n\r\nabc", "content-length: \r\n\r\n",
		"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "transfer-encoding: chunked\r\n\r\n03;ext=1\r\nabc\r\n0\r\n\r\n", "transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
		"transfer-encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"expect: something\r\ncontent-length: 3\r\n\r\nabc", "content-length: 3\r\nconnection: close\r\n\r\nabc",
	}
	parity{config: "http1", upstreams: map[string]stub{"10.1.0.1:8080": {}},
		script: func(a *actor) {
			for _, h := range heads {
				a.raw(h + "\r\n")
			}
			for _, b := range bodies {
				a.raw("POST / HTTP/1.1\r\n" + host + b)
				a.raw("GET / HTTP/1.1\r\n" + host + b)
			}
		}}.run(t)
}

// answered is a stub that answers the request for /N with the N-th of some texts, "|" where the connection ends then.
func answered(texts []string) stub {
	return stub{raw: func(a *actor, addr string, c net.Conn) {
		for b := make([]byte, 4096); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			head, _, _ := strings.Cut(string(b[:n]), "\r\n\r\n")
			a.mu.Lock()
			a.arrivals = append(a.arrivals, arrival{addr, requestText(head, nil)})
			a.mu.Unlock()
			path := strings.Fields(head)[1]
			i, err := strconv.Atoi(path[strings.LastIndexByte(path, '/')+1:])
			if err != nil {
				return
			}
			text, ends := strings.CutSuffix(texts[i], "|")
			if _, err = io.WriteString(c, text); err != nil || ends && a.pause(10*time.Millisecond) {
				return
			}
		}
	}}
}

// TestParityResponses: forms of answers, and bytes that are none. An Envoy drops 1xx answers and trailers, which detour
// hands on.
func TestParityResponses(t *testing.T) {
	const ok, end = "HTTP/1.1 200 OK\r\n", "content-length: 3\r\n\r\nabc"
	texts := []string{
		ok + "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ok + "transfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", ok + "\r\nuntil the end|",
		"HTTP/1.0 200 OK\r\n" + end, "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", "HTTP/1.1 200 \r\n" + end, "HTTP/1.1 299 Odd\r\n" + end,
		"HTTP/1.1 099 Odd\r\n" + end, "HTTP/1.1 20 Odd\r\n" + end, "garbage\r\n\r\n", ok + "x y: 1\r\n" + end, ok + "x\r\n" + end, ok + "x: a\x00b\r\n" + end, ok + "x: a\x80b\r\n" + end,
		ok + "set-cookie: a\r\nset-cookie: b\r\nvary: a\r\n" + end, ok + "content-length: 3\r\n" + end, ok + "content-length: 4\r\n" + end,
		ok + "transfer-encoding: chunked\r\n" + end, ok + "content-length: 10\r\n\r\nabc|", ok + "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n|", ok + "content-le|", "|",
		ok + "connection: close\r\n" + end + "|", ok + "keep-alive: timeout=5\r\n" + end, ok + "upgrade: h2\r\n" + end,
		ok + "x: " + strings.Repeat("x", 50000) + "\r\n" + end, ok + "x: " + strings.Repeat("x", 70000) + "\r\n" + end,
		ok + "x: " + strings.Repeat("x", 80<<10-len(ok+"x: \r\n"+end)+3) + "\r\n" + end, ok + "x: " + strings.Repeat("x", 80<<10-len(ok+"x: \r\n"+end)+4) + "\r\n" + end, ok + strings.Repeat("x: "+strings.Repeat("x", 4000)+"\r\n", 20) + end,
		ok + strings.Repeat("x: "+strings.Repeat("x", 1000)+"\r\n", 81) + end, ok + strings.Repeat("x: "+strings.Repeat("x", 1000)+"\r\n", 86) + end,
		ok + "x: " + strings.Repeat("x", 86000) + "\r\n" + end, ok + "x: " + strings.Repeat("x", 100000) + "\r\n" + end, ok + strings.Repeat("x: 1\r\n", 101) + end,
		ok + end + "def", ok + "x-envoy-ratelimited: true\r\nx-envoy-upstream-service-time: 3\r\nx-envoy-degraded: 1\r\n" + end, ok + "content-length: +3\r\n\r\nabc",
	}
	heads := []string{ok + "content-length: 10\r\n\r\n", ok + "transfer-encoding: chunked\r\n\r\n", "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"}
	parity{config: "http1", upstreams: map[string]stub{"10.1.0.1:8080": answered(append(texts, heads...))},
		script: func(a *actor) {
			for i := range texts {
				a.note("%.60q, %d bytes", texts[i], len(texts[i]))
				a.raw(fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: http1.test\r\n\r\n", i))
				a.raw(fmt.Sprintf("GET /retried/%d HTTP/1.1\r\nHost: http1.test\r\n\r\n", i))
			}
			for i := range heads {
				a.raw(fmt.Sprintf("HEAD /%d HTTP/1.1\r\nHost: http1.test\r\n\r\n", len(texts)+i))
			}
		}}.run(t)
}
