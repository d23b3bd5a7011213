package hcm_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane/planetest"
)

const large = 10 << 20

// noise is a body of n bytes that has no period.
type noise struct {
	n, left int
	x       uint32
	sum     hash.Hash
}

func newNoise(n int) *noise { return &noise{n: n, left: n, x: 1, sum: sha256.New()} }

func (s *noise) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(len(p), s.left)]
	for i := range p {
		s.x ^= s.x << 13
		s.x ^= s.x >> 17
		s.x ^= s.x << 5
		p[i] = byte(s.x)
	}
	s.left -= len(p)
	s.sum.Write(p)
	return len(p), nil
}

func (s *noise) digest() string { return fmt.Sprintf("%d %x", s.n-s.left, s.sum.Sum(nil)) }

// slowly passes bytes on a few at a time, with pauses in which the other side's buffers fill up.
type slowly struct {
	r io.Reader
	n int
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.n++; s.n%64 == 0 {
		_, _ = unix.Poll(nil, 1)
	}
	return s.r.Read(p[:min(len(p), 4096)])
}

func digest(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %x", n, h.Sum(nil))
}

// TestLargeBodies: 10 MB each way, by length and chunked with trailers, with the reader or the writer slow, arrive as
// they were sent, and the Plane holds no more of them than its windows.
func TestLargeBodies(t *testing.T) {
	fast := func(r io.Reader) io.Reader { return r }
	slow := func(r io.Reader) io.Reader { return &slowly{r: r} }
	for _, c := range []struct {
		name       string
		chunked    bool
		in, out    func(io.Reader) io.Reader // how the writer writes, how the reader reads
		downstream bool
	}{
		{"up", false, fast, fast, false},
		{"up chunked", true, fast, fast, false},
		{"up, slow reader", false, fast, slow, false},
		{"up chunked, slow writer", true, slow, fast, false},
		{"down", false, fast, fast, true},
		{"down chunked", true, fast, fast, true},
		{"down chunked, slow reader", true, fast, slow, true},
		{"down, slow writer", false, slow, fast, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			up, down := newNoise(1), newNoise(1)
			if c.downstream {
				down = newNoise(large)
			} else {
				up = newNoise(large)
			}
			arrived := make(chan string, 1)
			p, s, _ := start(t, func(u *planetest.Conn) {
				r, err := http.ReadRequest(u.R)
				if err != nil {
					t.Error(err)
					return
				}
				arrived <- digest(c.out(r.Body)) + trailer(r.Trailer)
				writeBody(u.Peer, "HTTP/1.1 200 OK\r\n", c.in(down), down.n, c.chunked)
				u.Gone()
			})
			client := p.Dial(s.Address())
			before := heap()
			go writeBody(client.Peer, "POST / HTTP/1.1\r\nHost: svc.test\r\n", c.in(up), up.n, c.chunked)
			resp, err := http.ReadResponse(client.R, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := digest(c.out(resp.Body)) + trailer(resp.Trailer)
			if grown := heap() - before; grown > 4<<20 {
				t.Errorf("the heap grew by %d kB", grown>>10)
			}
			end := ""
			if c.chunked {
				end = " X-Sum:ok"
			}
			if want := up.digest() + end; <-arrived != want {
				t.Errorf("request did not arrive as sent, %s", want)
			}
			if want := down.digest() + end; got != want {
				t.Errorf("response is %s, want %s", got, want)
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func trailer(h http.Header) (out string) {
	for k, v := range h {
		out += " " + k + ":" + v[0]
	}
	return out
}

// writeBody writes a message of n bytes.
func writeBody(p *planetest.Peer, head string, body io.Reader, n int, chunked bool) {
	if !chunked {
		_, _ = io.Copy(p.TCPConn, io.MultiReader(strings.NewReader(fmt.Sprintf("%sContent-Length: %d\r\n\r\n", head, n)), body))
		return
	}
	buf, out := make([]byte, 10000), bytes.NewBufferString(head+"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
	for {
		k, err := body.Read(buf)
		if k > 0 {
			fmt.Fprintf(out, "%x\r\n%s\r\n", k, buf[:k])
		}
		if err != nil {
			out.WriteString("0\r\nX-Sum: ok\r\n\r\n")
		}
		if _, werr := p.Write(out.Bytes()); err != nil || werr != nil {
			return
		}
		out.Reset()
	}
}

// TestBackPressure: a client that does not read stops its endpoint, whose other requests go on.
func TestBackPressure(t *testing.T) {
	wrote := make(chan int64, 1)
	p, s, _ := start(t, func(c *planetest.Conn) {
		if c.Nth > 1 {
			planetest.Serve("ok")(c)
			return
		}
		c.Request()
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		c.Send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		n, _ := io.Copy(c.TCPConn, zeros{})
		wrote <- n
	})
	stuck := p.Dial(s.Address())
	stuck.Send(planetest.Request("GET", "/", ""))
	if a := p.Dial(s.Address()).Do("GET", ""); a.Text != "ok" {
		t.Errorf("another client got %q", a.Text)
	}
	if n := <-wrote; n > 64<<20 { // what kernels buffer on four sockets
		t.Errorf("the endpoint could write %d MB", n>>20)
	}
	if !stuck.Gone() {
		t.Error("an unfinished response ended in order")
	}
}

// TestFair: a client that never stops sending requests, and an endpoint that never stops answering, leave the worker time
// for others.
func TestFair(t *testing.T) {
	p, s, _ := start(t, func(c *planetest.Conn) {
		r := c.Request()
		if r != nil && r.URL.Path == "/endless" {
			_, _ = io.Copy(c.TCPConn, io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\n\r\n"), zeros{}))
			return
		}
		c.Send(planetest.Response(200, "ok"))
	})
	done := make(chan struct{})
	endless, flood := p.Dial(s.Address()), p.Dial(s.Address())
	go func() {
		endless.Send(planetest.Request("GET", "/endless", ""))
		_, _ = io.Copy(io.Discard, endless.TCPConn)
		done <- struct{}{}
	}()
	go func() {
		request := []byte(strings.Repeat("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", 1000))
		go func() { _, _ = io.Copy(io.Discard, flood.TCPConn); done <- struct{}{} }()
		for {
			if _, err := flood.Write(request); err != nil {
				break
			}
		}
		done <- struct{}{}
	}()
	for range 20 {
		if a := p.Dial(s.Address()).Do("GET", ""); a.Text != "ok" {
			t.Errorf("got %q", a.Text)
		}
	}
	_, _ = endless.Close(), flood.Close()
	for range 3 {
		<-done
	}
}

// TestClientAborts: a client that goes away takes its request with it, at every stage.
func TestClientAborts(t *testing.T) {
	for _, c := range []struct {
		name, send, answer string
	}{
		{"before the answer", planetest.Request("GET", "/", ""), ""},
		{"in the body of the request", "POST / HTTP/1.1\r\nHost: svc.test\r\nContent-Length: 9\r\n\r\nabc", ""},
		{"in the body of the response", planetest.Request("GET", "/", ""), "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"},
		{"in a response without end", planetest.Request("GET", "/", ""), "HTTP/1.1 200 OK\r\n\r\nabc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			arrived := make(chan struct{})
			ended := make(chan bool, 1)
			p, s, _ := start(t, func(u *planetest.Conn) {
				if _, err := u.R.ReadString('\n'); err != nil {
					t.Error(err)
				}
				u.Send(c.answer)
				close(arrived)
				ended <- u.Gone()
			})
			client := p.Dial(s.Address())
			client.Send(c.send)
			<-arrived
			if c.answer != "" {
				if _, err := http.ReadResponse(client.R, nil); err != nil {
					t.Fatal(err)
				}
			}
			client.Reset()
			if !<-ended {
				t.Error("the endpoint saw an end in order")
			}
			if i := p.Ended(); i.Flags.String() != "DC" {
				t.Errorf("flags %v, want DC", i.Flags)
			}
			planetest.Until(t, "the connection is gone", func() bool { return p.Connections() == 0 })
		})
	}
}

// TestDrain: what is under way finishes, idle connections close, new ones are refused.
func TestDrain(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	p, s, _ := start(t, func(c *planetest.Conn) {
		for r := c.Request(); r != nil; r = c.Request() {
			if r.URL.Path == "/slow" {
				close(arrived)
				<-release
			}
			c.Send(planetest.Response(200, "ok"))
		}
	})
	idle, busy := p.Dial(s.Address()), p.Dial(s.Address())
	idle.Do("GET", "")
	busy.Send(planetest.Request("GET", "/slow", ""))
	<-arrived
	p.Drain()
	if idle.Gone() {
		t.Error("an idle connection was reset")
	}
	close(release)
	if a := busy.Read("GET"); a.Text != "ok" || !a.Close {
		t.Errorf("got %q, told to close: %v", a.Text, a.Close)
	}
	if busy.Gone() {
		t.Error("the connection was reset after its answer")
	}
	planetest.Until(t, "all connections are gone", func() bool { return p.Connections() == 0 })
}
