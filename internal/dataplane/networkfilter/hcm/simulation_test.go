package hcm_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

// dice is a source of random choices that tests may roll from several goroutines.
type dice struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

func (d *dice) roll(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.IntN(n)
}

// pieces writes text in random pieces.
func pieces(p *planetest.Peer, d *dice, text []byte) {
	for len(text) > 0 {
		n := min(1+d.roll(1+d.roll(len(text))), len(text))
		if _, err := p.Write(text[:n]); err != nil {
			return
		}
		text = text[n:]
	}
}

// body gives the n bytes that belong to an id.
func body(id, n int) []byte {
	b := bytes.Repeat([]byte(fmt.Sprintf("%d.", id)), n/2+1)
	return b[:n]
}

// framed writes a message's body in one of the ways there are, with its head.
func framed(d *dice, head string, b []byte) []byte {
	if d.roll(2) == 0 {
		return append(fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n", head, len(b)), b...)
	}
	out := []byte(head + "Transfer-Encoding: chunked\r\n\r\n")
	for len(b) > 0 {
		n := 1 + d.roll(len(b))
		out = fmt.Appendf(out, "%x\r\n%s\r\n", n, b[:n])
		b = b[n:]
	}
	out = append(out, "0\r\n"...)
	if d.roll(2) == 0 {
		out = append(out, "X-Trailer: yes\r\n"...)
	}
	return append(out, "\r\n"...)
}

// sim is one run: endpoints that misbehave at random, clients that pipeline, split and leave at random.
type sim struct {
	*dice
	t         *testing.T
	mu        sync.Mutex
	delivered map[string]int // guarded by mu: how often each POST was read whole
}

// endpoint answers with the request's id and size, unless it does something else.
func (s *sim) endpoint(c *planetest.Conn) {
	for {
		if s.roll(40) == 0 {
			c.Reset()
			return
		}
		r, err := http.ReadRequest(c.R)
		if err != nil {
			return
		}
		if s.roll(40) == 0 {
			c.Reset()
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		id, _ := strconv.Atoi(r.Header.Get("X-Id"))
		if !bytes.Equal(b, body(id, len(b))) || r.Header.Get("X-Size") != strconv.Itoa(len(b)) {
			s.t.Errorf("request %d arrived damaged", id)
		}
		if r.Method == "POST" {
			s.mu.Lock()
			s.delivered[r.Header.Get("X-Id")]++
			s.mu.Unlock()
		}
		if !s.answer(c, id) {
			return
		}
	}
}

// answer says whether the connection goes on.
func (s *sim) answer(c *planetest.Conn, id int) bool {
	head := fmt.Sprintf("X-Id: %d\r\n", id)
	switch s.roll(30) {
	case 0:
		c.Reset()
		return false
	case 1:
		return false
	case 2:
		pieces(c.Peer, s.dice, append([]byte("HTTP/1.1 200 OK\r\n"+head+"\r\n"), body(id, s.roll(50000))...)) // until close
		return false
	case 3:
		whole := framed(s.dice, "HTTP/1.1 200 OK\r\n"+head, body(id, 1+s.roll(50000)))
		pieces(c.Peer, s.dice, whole[:s.roll(len(whole))])
		c.Reset()
		return false
	case 4:
		c.Send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
	case 5:
		pieces(c.Peer, s.dice, framed(s.dice, "HTTP/1.1 503 Service Unavailable\r\n"+head, body(id, s.roll(5000))))
		return true
	case 6:
		pieces(c.Peer, s.dice, framed(s.dice, "HTTP/1.1 200 OK\r\nConnection: close\r\n"+head, body(id, s.roll(50000))))
		return false
	}
	pieces(c.Peer, s.dice, framed(s.dice, "HTTP/1.1 200 OK\r\n"+head, body(id, s.roll(1+s.roll(100000)))))
	return true
}

// client sends a few requests one behind the other and reads what comes: in order, each once, whole or visibly not.
func (s *sim) client(c *planetest.Client, first int) {
	n := 1 + s.roll(6)
	var all []byte
	methods := make([]string, n)
	for i := range n {
		methods[i] = []string{"GET", "POST", "PUT", "HEAD"}[s.roll(4)]
		size := 0
		if methods[i] == "POST" || methods[i] == "PUT" {
			size = s.roll(1 + s.roll(100000))
		}
		head := fmt.Sprintf("%s / HTTP/1.1\r\nHost: svc.test\r\nX-Id: %d\r\nX-Size: %d\r\n", methods[i], first+i, size)
		if size > 0 {
			all = append(all, framed(s.dice, head, body(first+i, size))...)
		} else {
			all = append(all, head+"\r\n"...)
		}
	}
	leaves := s.roll(10) == 0
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if leaves {
			all = all[:s.roll(len(all))]
		}
		pieces(c.Peer, s.dice, all)
		switch {
		case leaves && s.roll(2) == 0:
			c.Reset()
		case leaves, s.roll(3) == 0:
			_ = c.CloseWrite()
		}
	}()
	for i := 0; i < n; {
		resp, err := http.ReadResponse(c.R, &http.Request{Method: methods[i]})
		if err != nil {
			break
		}
		if resp.StatusCode/100 == 1 {
			continue
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			break // cut off, and seen to be
		}
		if id := resp.Header.Get("X-Id"); id != "" && (id != strconv.Itoa(first+i) || !bytes.Equal(b, body(first+i, len(b)))) {
			s.t.Errorf("request %d got the answer to %s, or a damaged one", first+i, id)
		}
		i++
	}
	_ = c.Close()
	<-sent
}

// TestSimulation: whatever peers do, answers come in order, each once, as they were sent; no POST arrives twice; every
// attempt has one Done (a second panics, a missing one fails the end of the test); nothing stays behind.
func TestSimulation(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(strconv.Itoa(int(seed)), func(t *testing.T) {
			s := &sim{dice: &dice{rnd: rand.New(rand.NewPCG(seed, 7))}, t: t, delivered: map[string]int{}}
			service := planetest.One(planetest.NewUpstream(t, s.endpoint).Addr, planetest.NewUpstream(t, s.endpoint).Addr)
			service.Endpoints[0] = append(service.Endpoints[0], planetest.NewUpstream(t, s.endpoint).Addr)
			p := planetest.Start(t, dataplane.Options{Workers: 2}, service)
			var clients sync.WaitGroup
			for i := range 8 {
				clients.Add(1)
				go func() {
					defer clients.Done()
					for k := range 25 {
						s.client(p.Dial(service.Address()), 10*(25*i+k))
					}
				}()
			}
			clients.Wait()
			planetest.Until(t, "all connections are gone", func() bool { return p.Connections() == 0 })
			s.mu.Lock()
			defer s.mu.Unlock()
			for id, n := range s.delivered {
				if n > 1 {
					t.Errorf("POST %s was delivered %d times", id, n)
				}
			}
			if len(s.delivered) < 50 {
				t.Errorf("only %d POSTs arrived: the simulation is broken", len(s.delivered))
			}
		})
	}
}
