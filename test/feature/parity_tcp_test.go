//go:build linux

package feature

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"detour.dev/detour/internal/testcert"
)

// echoHex is echo for bytes that are no text, but for the client's port, which is chance.
func echoHex(_ *actor, addr string, c net.Conn) {
	b, err := io.ReadAll(c)
	if err != nil {
		return
	}
	if len(b) > 28 {
		b[24], b[25] = 0, 0 // version 2: the source's port
	}
	fmt.Fprintf(c, "%s got %s", addr, hex.EncodeToString(b))
}

func TestParityTCP(t *testing.T) {
	parity{config: "tcp", flags: []string{"--labels", "app=web"},
		upstreams: map[string]stub{
			"10.1.0.1:7000": {raw: echo}, "10.1.0.1:7001": {raw: echo}, "10.1.0.2:7000": {raw: echo}, "10.1.0.3:7000": {raw: echo},
			"10.1.0.4:8080": {raw: answerAny}, "10.1.0.5:7000": {raw: echo}, "10.1.0.5:8080": {raw: proxied}, "10.1.0.6:7000": {raw: echoHex},
			"SCRATCH/s": {body: "from a unix socket"}, "10.202.0.1:9002": {raw: echo}, "10.1.0.3:8080": {}, "10.201.3.5:9006": {},
		},
		script: func(a *actor) {
			a.talk("weights", "10.200.17.1:9000", "x", 1500)
			a.exchange("match", "10.200.17.1:9001", "hello")
			a.exchange("second", "10.200.17.2:9000", "hello")
			a.exchange("range", "10.201.3.4:9002", "hello")
			a.do(call{url: "http://cidr.test:9006/", at: "10.201.3.4:9006"})
			a.do(call{url: "http://undeclared.test:9006/", at: "10.201.3.5:9006"})
			a.exchange("outside", "10.202.0.1:9002", "hello")
			a.exchange("nobody", "10.202.0.2:9002", "hello")
			a.get("http://unnamed.test:9003/path")
			a.exchange("proxy v1", "10.200.17.5:9000", "hello")
			a.exchange("proxy v2", "10.200.17.6:9000", "hello")
			a.do(call{url: "http://proxied.test:9005/"})
			a.get("http://unix.test/path")
		}}.run(t)
}

// answerAny answers requests by their first line, and all else with its bytes.
func answerAny(_ *actor, addr string, c net.Conn) {
	b := make([]byte, 1000)
	n, err := c.Read(b)
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(b[:n]), "\r\n")
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nx-first-line: %q\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", line)
}

// TestParityDetection: what takes a connection depends on its first bytes, on a port without protocol, and in an Envoy on
// one with HTTP too. The client does not end its side: an Envoy that sees the end while it looks drops the connection.
func TestParityDetection(t *testing.T) {
	parity{config: "tcp", flags: []string{"--labels", "app=web"}, mesh: "detection",
		upstreams: map[string]stub{"10.1.0.4:8080": {raw: answerAny}, "10.1.0.5:8080": {raw: answerAny}, "10.200.17.5:9005": {raw: greets}},
		script: func(a *actor) {
			for _, addr := range []string{"10.200.17.4:9003", "10.200.17.5:9005"} {
				head := "Host: " + map[string]string{"10.200.17.4:9003": "unnamed", "10.200.17.5:9005": "proxied"}[addr] + ".test\r\nconnection: close\r\n\r\n"
				for _, parts := range [][]string{
					{"GET / HTTP/1.1\r\n" + head}, {"GE", "T / HTTP/1.1\r\n" + head}, {"GET / HTTP/1.1\r", "\n" + head},
					{"\x00\x01 these are no HTTP\r\n\r\n"}, {"\x00\x01", " these are"}, {"hello\r\n"}, {"hel", "lo\r\n"},
					{"SSH-2.0-OpenSSH\r\n"}, {"*1\r\n$4\r\nPING\r\n"}, {"GET /\r\n\r\n"}, {"GET / HTTP/1.0\r\n\r\n"}, {"GET / HTTP/1.2\r\n" + head},
					{"GET / HTTP/2.0\r\n" + head}, {"\r\n\r\n"}, {"\r\nGET / HTTP/1.1\r\n" + head}, {"A B C\r\n"}, {"hello"},
				} {
					a.dictate(addr, parts...)
				}
			}
			a.dictate("10.200.17.5:9005", "") // whose server does not wait either
		}}.run(t)
}

// greets is a server that does not wait for its client.
func greets(a *actor, addr string, c net.Conn) {
	fmt.Fprintf(c, "%s says welcome", addr)
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c) // a reset would take the greeting away
}

// dictate sends bytes piece by piece and notes what comes back until the connection's end, but for the time of day.
func (a *actor) dictate(addr string, parts ...string) {
	a.t.Helper()
	c, err := a.dial(addr)
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	for _, p := range parts {
		if _, err := io.WriteString(c, p); err != nil || len(parts) > 1 && !a.pause(20*time.Millisecond) { // a segment for each
			break
		}
	}
	// An Envoy that ends a connection after an answer waits for the client to do so.
	b, r := []byte(nil), make([]byte, 1000)
	for n := 0; err == nil && !bytes.HasSuffix(b, []byte("\r\n\r\n")); n, err = c.Read(r) {
		b = append(b, r[:n]...)
	}
	if len(b) == 0 {
		b = []byte("closed")
	}
	a.note("%s %q -> %q", addr, parts, chance.ReplaceAll(b, nil))
}

// chance is what is another every time: the date, and a client's port.
var chance = regexp.MustCompile(`(?i)(date|connection): [^\r]*\r\n|\b[3456]\d{4}\b`)

// proxied wants a PROXY header of version 1 and answers the request after it.
func proxied(_ *actor, _ string, c net.Conn) {
	b := make([]byte, 1000)
	n, err := c.Read(b)
	if err != nil {
		return
	}
	f := strings.Fields(string(b[:n]))
	if len(f) < 5 {
		f = append(f, "", "", "", "", "")
	}
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nx-proxy: %s %s %s %s\r\ncontent-length: 0\r\n\r\n", f[0], f[1], f[2], f[3])
}

func TestParitySNI(t *testing.T) {
	parity{config: "sni", flags: []string{"--labels", "app=web"},
		prepare: func(w *world) map[string]stub {
			out := map[string]stub{}
			for addr, name := range map[string]string{"10.1.0.1:7443": "one.test", "10.1.0.2:7443": "two.test", "10.1.0.3:443": "a.wild.test", "10.1.0.4:443": "else.test"} {
				out[addr] = stub{raw: echoTLS(w, name)}
			}
			out["10.1.0.5:7443"], out["10.1.0.6:7443"] = stub{raw: sayWho}, stub{raw: sayWho}
			return out
		},
		script: func(a *actor) {
			a.handshake("by name", "10.1.0.1:443", "one.test", "hello")
			a.handshake("another", "10.1.0.4:443", "two.test", "hello")
			a.handshake("wildcard", "10.1.0.3:443", "a.wild.test", "hello")
			a.handshake("without a rule of its port", "10.1.0.4:8443", "one.test", "hello")
			a.handshake("undeclared", "10.1.0.4:443", "else.test", "hello")
			a.handshake("no name", "10.1.0.4:443", "", "hello")
			seen := map[bool]int{}
			for range 40 {
				before := len(a.notes)
				a.handshake("split", "10.1.0.4:443", "split.one.test", "hello")
				seen[strings.Contains(a.notes[before], "two.test")]++
				a.notes = a.notes[:before]
			}
			a.note("split: both %v", seen[true] > 5 && seen[false] > 5)
			a.answers("weights", "10.1.0.4:443", clientHello("five.test"), 1500)
		}}.run(t)
}

// answers is talk with a client that does not end its side: a proxy that looks at the first bytes drops what has ended.
func (a *actor) answers(what, addr, send string, n int) {
	a.t.Helper()
	count := map[string]int{}
	for range n {
		c, err := a.dial(addr)
		if err != nil {
			a.t.Fatal(err)
		}
		_, _ = io.WriteString(c, send)
		b, _ := io.ReadAll(c)
		count[string(b)]++
		c.Close()
	}
	a.noteShares(what, count, n)
}

// sayWho says its address to whoever says something.
func sayWho(_ *actor, addr string, c net.Conn) {
	if _, err := c.Read(make([]byte, 1)); err == nil {
		_, _ = io.WriteString(c, addr)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}

// clientHello is what a TLS client says first.
func clientHello(sni string) string {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake()
		client.Close()
	}()
	head := make([]byte, 5)
	_, _ = io.ReadFull(server, head)
	rest := make([]byte, int(head[3])<<8|int(head[4]))
	_, _ = io.ReadFull(server, rest)
	return string(head) + string(rest)
}

// echoTLS speaks TLS with a certificate for the name and answers what it got.
func echoTLS(w *world, name string) func(*actor, string, net.Conn) {
	cfg := serverTLS(w, name)
	return func(_ *actor, addr string, c net.Conn) {
		tc := tls.Server(c, cfg)
		b, err := io.ReadAll(tc)
		if err == nil {
			fmt.Fprintf(tc, "%s got %s", addr, b)
		}
		_ = tc.CloseWrite()
	}
}

func serverTLS(w *world, name string) *tls.Config {
	w.t.Helper()
	pair := w.pair(name)
	cert, err := pair.TLS()
	if err != nil {
		w.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

func TestParityTLSOrigination(t *testing.T) {
	parity{config: "tls",
		prepare: func(w *world) map[string]stub {
			w.caFile()
			other, err := testcert.NewCA("another")
			if err != nil {
				w.t.Fatal(err)
			}
			if _, err := other.WriteFile(w.scratch, "other.crt"); err != nil {
				w.t.Fatal(err)
			}
			if _, _, err := w.pair("client.example").WriteFiles(w.scratch, "client"); err != nil {
				w.t.Fatal(err)
			}
			server := w.pair("up.example")
			cert, err := server.TLS()
			if err != nil {
				w.t.Fatal(err)
			}
			crl, err := w.ca.CRL(server)
			if err != nil {
				w.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(w.scratch, "ca.crl"), crl, 0o644); err != nil {
				w.t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AddCert(w.ca.Cert)
			plain := &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}
			mutual := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
			return map[string]stub{"10.1.0.1:7443": {tls: plain, greet: true}, "10.1.0.1:7444": {tls: mutual, greet: true}, "10.1.0.1:8080": {}}
		},
		script: func(a *actor) {
			for port := 80; port <= 87; port++ {
				c := call{url: fmt.Sprintf("http://tls.test:%d/", port)}
				a.do(c)
			}
			a.get("http://sans.test/")
		}}.run(t)
}
