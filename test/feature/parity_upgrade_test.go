//go:build linux

package feature

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestParityUpgrade: a connection that stops being HTTP: bytes both ways, whoever ends first; and answers that refuse it. An
// Envoy refuses other protocols, passes a 101 without Upgrade on, and takes the body out of a 200.
func TestParityUpgrade(t *testing.T) {
	parity{config: "bodies", upstreams: map[string]stub{"10.1.0.1:8082": {raw: switches}},
		script: func(a *actor) {
			for _, path := range []string{"/echo", "/none/echo", "/early", "/ends", "/426", "/404", "/503", "/none/503", "/close", "/other"} {
				a.upgrade(path, "websocket")
			}
			a.upgrade("/echo", "WebSocket")
			u := a.switchTo("/echo", "websocket")
			u.say("one")
			a.pause(500 * time.Millisecond) // longer than the route's timeout
			u.say("two")
			_ = u.c.(readFrom).Conn.(*net.TCPConn).CloseWrite()
			u.over()
			u = a.switchTo("/last", "websocket")
			_, _ = io.WriteString(u.c, "the last words")
			_ = u.c.(readFrom).Conn.(*net.TCPConn).CloseWrite()
			u.over()
			a.awaitArrivals(1)
			a.noteArrivals("  ")
		}}.run(t)
}

// upgrade asks for another protocol and uses it.
func (a *actor) upgrade(path, to string) {
	a.t.Helper()
	u := a.switchTo(path, to)
	if u == nil {
		return
	}
	defer u.end()
	if path == "/ends" || path == "/early" {
		u.over()
		return
	}
	u.say("one")
	u.say("\x00\x81two")
	u.say(strings.Repeat("long ", 15))
	u.say("quit")
	u.over()
}

// switchTo gives the connection where the answer is 101.
func (a *actor) switchTo(path, to string) *dialogue {
	a.t.Helper()
	c, err := a.dial("10.200.33.1:82")
	if err != nil {
		a.t.Fatal(err)
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: bodies.test:82\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", path, to)
	cl := caller{a: a, conn: c, reader: bufio.NewReaderSize(c, 16)}
	answer, err := cl.upgraded()
	a.note("%s to %s -> %s %v", path, to, answer, err == nil)
	a.noteArrivals("  ")
	if !strings.HasPrefix(answer, "101") {
		cl.hangUp()
		return nil
	}
	return &dialogue{a, readFrom{c, cl.reader}}
}

// upgraded reads an answer, of 101 the head.
func (cl *caller) upgraded() (string, error) {
	b, err := cl.reader.Peek(len("HTTP/1.1 101"))
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(string(b), " 101") {
		text, _, err := cl.receive(http.MethodGet)
		return text, err
	}
	var lines []string
	for {
		l, err := cl.reader.ReadString('\n')
		if err != nil || l == "\r\n" {
			return "101" + fieldText(lines[1:]), err
		}
		lines = append(lines, strings.TrimSuffix(l, "\r\n"))
	}
}

// readFrom is a connection of which a reader has a part already.
type readFrom struct {
	net.Conn
	r io.Reader
}

func (c readFrom) Read(b []byte) (int, error) { return c.r.Read(b) }

// switches answers requests for another protocol, as their path says.
func switches(a *actor, addr string, c net.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		a.mu.Lock()
		a.arrivals = append(a.arrivals, arrival{addr, fmt.Sprintf("%s %s, to %q, options %q, key %q, x-set %q", r.Method, r.URL.Path,
			r.Header.Get("Upgrade"), strings.ToLower(r.Header.Get("Connection")), r.Header.Get("Sec-WebSocket-Key"), r.Header.Get("X-Set"))})
		a.mu.Unlock()
		const ok = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n"
		switch path := strings.TrimPrefix(r.URL.Path, "/none"); path {
		case "/echo":
			_, _ = io.WriteString(c, ok)
			echoWords(c, br)
			return
		case "/last":
			_, _ = io.WriteString(c, ok)
			b, err := io.ReadAll(br)
			a.mu.Lock()
			a.arrivals = append(a.arrivals, arrival{addr, fmt.Sprintf("%q %v", b, err == nil)})
			a.mu.Unlock()
			return
		case "/early":
			_, _ = io.WriteString(c, ok+"with the head")
			return
		case "/ends":
			_, _ = io.WriteString(c, ok)
			return
		case "/close":
			return
		case "/other":
			_, _ = io.WriteString(c, strings.Replace(ok, "websocket\r\n", "other\r\n", 1))
			return
		case "/nofields":
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			return
		default:
			fmt.Fprintf(c, "HTTP/1.1 %s x\r\nupgrade: websocket\r\ncontent-length: 3\r\n\r\nabc", path[1:])
		}
	}
}

// echoWords answers each piece that it gets, and ends with "bye" after "quit".
func echoWords(c net.Conn, r io.Reader) {
	b := make([]byte, 1000)
	for {
		n, err := r.Read(b)
		if err != nil {
			return
		}
		if string(b[:n]) == "quit" {
			_, _ = io.WriteString(c, "bye")
			return
		}
		fmt.Fprintf(c, "got %s", b[:n])
	}
}
