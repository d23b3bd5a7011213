package dataplane_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

// noise gives bytes of which none can be missing or out of place unnoticed.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return string(b)
}

func chunked(body string, size int) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x;ext=1\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\nX-Sum: 1\r\n\r\n"
}

// openPipes counts the process's pipes, both ends.
func openPipes(t *testing.T) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// TestLongResponses: whatever the framing and the length, the client gets what the endpoint sent, all of it is counted, and the
// connection serves the next request where it may.
func TestLongResponses(t *testing.T) {
	const length = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
	for _, n := range []int{32 << 10, 64<<10 - 1, 96<<10 + 1, 1 << 20, 5<<20 + 7} {
		body := noise(n)
		for name, raw := range map[string]string{
			"length":       fmt.Sprintf(length, n) + body,
			"until close":  "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body,
			"big chunks":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 300<<10),
			"small chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 5000),
		} {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) {
				u := planetest.NewUpstream(t, func(c *planetest.Conn) {
					for c.Request() != nil {
						c.Send(raw)
						if name == "until close" {
							return
						}
					}
				})
				s := planetest.One(u.Addr)
				p := planetest.Start(t, dataplane.Options{}, s)
				c := p.Dial(s.Address())
				for range 2 {
					if name == "until close" {
						c = p.Dial(s.Address())
					}
					if a := c.Do("GET", ""); a.Text != body || a.Err != nil {
						t.Fatalf("%d bytes came of %d, the same: %t, %v", len(a.Text), n, a.Text == body, a.Err)
					}
					want := uint64(len(raw) - strings.Index(raw, "\r\n\r\n") - 4)
					if i := p.Ended(); i.BytesSent != want || i.Flags != 0 || i.Code != 200 {
						t.Errorf("logged: %d, %d bytes, flags %v; sent %d", i.Code, i.BytesSent, i.Flags, want)
					}
				}
			})
		}
	}
}

// TestLongRequests is the same for what the client sends.
func TestLongRequests(t *testing.T) {
	for _, n := range []int{33 << 10, 96<<10 + 1, 1 << 20, 5<<20 + 7} {
		body := noise(n)
		for name, raw := range map[string]string{
			"length":     planetest.Request("POST", "/", body),
			"big chunks": "POST / HTTP/1.1\r\nHost: svc.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 300<<10),
		} {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) {
				u := planetest.NewUpstream(t, func(c *planetest.Conn) {
					for {
						r, err := readRequest(c)
						if err != nil {
							return
						}
						c.Send(planetest.Response(200, fmt.Sprint(r == body)))
					}
				})
				s := planetest.One(u.Addr)
				p := planetest.Start(t, dataplane.Options{}, s)
				c := p.Dial(s.Address())
				for range 2 {
					go c.Send(raw)
					if a := c.Read("POST"); a.Text != "true" {
						t.Fatalf("the endpoint got something else: %d %q", a.StatusCode, a.Text)
					}
					want := uint64(len(raw) - strings.Index(raw, "\r\n\r\n") - 4)
					if i := p.Ended(); i.BytesReceived != want {
						t.Errorf("logged %d bytes, want %d", i.BytesReceived, want)
					}
				}
			})
		}
	}
}

// stalls writes until nothing moves for a while, and says how much went.
func stalls(c net.Conn, data string) (n int, stalled bool) {
	for n < len(data) {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		k, err := io.WriteString(c, data[n:min(n+64<<10, len(data))])
		n += k
		if err != nil {
			return n, errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
	return n, false
}

// TestSlowReader: what the client does not read stays with the endpoint, but for what sockets and one pipe hold. Once it reads,
// everything comes.
func TestSlowReader(t *testing.T) {
	const n = 64 << 20
	body := noise(n)
	for name, protocol := range map[string]planetest.Protocol{"HTTP": planetest.HTTP, "TCP": planetest.TCP} {
		t.Run(name, func(t *testing.T) {
			wrote := make(chan int, 1)
			u := planetest.NewUpstream(t, func(c *planetest.Conn) {
				if protocol == planetest.HTTP {
					c.Request()
					c.Send(fmt.Sprintf("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", n))
				}
				k, stalled := stalls(c.TCPConn, body)
				if !stalled {
					t.Errorf("all was taken, %d bytes, or it broke", k)
				}
				wrote <- k
				_ = c.SetWriteDeadline(time.Now().Add(planetest.Patience))
				c.Send(body[k:])
			})
			s := planetest.One(u.Addr)
			s.Protocol = protocol
			p := planetest.Start(t, dataplane.Options{}, s)
			c := p.Dial(s.Address())
			_ = c.SetReadBuffer(64 << 10)
			if protocol == planetest.HTTP {
				c.Send(request)
			}
			if k := <-wrote; k > n/2 {
				t.Errorf("%d bytes of %d went although nobody read", k, n)
			}
			got := ""
			if protocol == planetest.HTTP {
				got = c.Read("GET").Text
			} else {
				got, _ = c.Rest()
			}
			if got != body {
				t.Errorf("%d bytes of %d came, the same: false", len(got), n)
			}
		})
	}
}

// TestBrokenBodies: a reset in the middle of a long body, on either side, ends the other side with a reset, and no pipe stays
// with anybody.
func TestBrokenBodies(t *testing.T) {
	before := openPipes(t)
	const n = 8 << 20
	body := noise(n)
	t.Run("plane", func(t *testing.T) {
		reset := make(chan bool, 1)
		gone := make(chan error, 1)
		u := planetest.NewUpstream(t, func(c *planetest.Conn) {
			c.Request()
			c.Send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n))
			c.Send(body[:n/2])
			if <-reset {
				c.Reset()
				return
			}
			_, err := io.WriteString(c.TCPConn, body[n/2:])
			for err == nil { // until the proxy resets
				_, err = io.WriteString(c.TCPConn, body)
			}
			gone <- err
		})
		s := planetest.One(u.Addr)
		p := planetest.Start(t, dataplane.Options{}, s)
		for range 40 {
			c := p.Dial(s.Address())
			c.Send(planetest.Request("GET", "/", ""))
			_, _ = io.ReadFull(c.R, make([]byte, 1<<20))
			reset <- true
			if rest, err := c.Rest(); err == nil || len(rest) > n {
				t.Fatalf("the client got %d bytes and %v", len(rest), err)
			}
			c = p.Dial(s.Address())
			c.Send(planetest.Request("GET", "/", ""))
			_, _ = io.ReadFull(c.R, make([]byte, 1<<20))
			c.Reset()
			reset <- false
			if err := <-gone; errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the endpoint was not told")
			}
		}
		if n := openPipes(t) - before; n > 64 {
			t.Errorf("%d ends of pipes are open", n)
		}
	})
	if n := openPipes(t); n != before {
		t.Errorf("%d ends of pipes stay open", n-before)
	}
}

// TestManyStuckReaders: more directions wait than there may be pipes; each gets everything.
func TestManyStuckReaders(t *testing.T) {
	before := openPipes(t)
	const n, clients = 5 << 20, 66
	body := noise(n)
	u := planetest.NewUpstream(t, func(c *planetest.Conn) {
		for c.Request() != nil {
			c.Send(planetest.Response(200, body))
		}
	})
	s := planetest.One(u.Addr)
	s.Timeout = planetest.Patience // a route without one has 15 s: less than the last reader waits on a busy machine
	p := planetest.Start(t, dataplane.Options{}, s)
	var all []*planetest.Client
	for range clients {
		c := p.Dial(s.Address())
		c.Send(planetest.Request("GET", "/", ""))
		_, _ = c.R.Peek(1)
		all = append(all, c)
	}
	if n := openPipes(t) - before; n == 0 || n > 2*64 {
		t.Errorf("%d ends of pipes are open", n)
	}
	for i, c := range all {
		if a := c.Read("GET"); a.Text != body {
			t.Fatalf("client %d: %d bytes of %d, %v", i, len(a.Text), n, a.Err)
		}
	}
}

func readRequest(c *planetest.Conn) (string, error) {
	r, err := http.ReadRequest(c.R)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r.Body)
	return string(b), err
}
