//go:build linux

package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, c := range []struct {
		of   []time.Duration
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0}, {[]time.Duration{7}, 0.5, 7}, {[]time.Duration{7}, 0.999, 7}, {[]time.Duration{1, 2}, 0.5, 1},
		{[]time.Duration{1, 2, 3}, 0.5, 2}, {hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 0.991, 100}, {hundred, 0.999, 100},
		{hundred, 1, 100}, {hundred, 0, 1},
	} {
		if got := Quantile(c.of, c.q); got != c.want {
			t.Errorf("quantile %g of %d: %d, not %d", c.q, len(c.of), got, c.want)
		}
	}
}

// TestSchedule: over an hour at an odd rate no time is lost to rounding, and what was missed is handed out at once, with the
// time that it was due at.
func TestSchedule(t *testing.T) {
	s := schedule{start: time.Second, rate: 30000.0 / 7}
	if _, ok := s.take(time.Second - 1); ok {
		t.Error("the first request is given out before the start")
	}
	n, last := 0, time.Duration(0)
	for {
		due, ok := s.take(time.Second + time.Hour - 1)
		if !ok {
			break
		}
		if n > 0 {
			if gap := due - last; gap < 233332 || gap > 233334 {
				t.Fatalf("request %d is due %d ns after the one before", n, gap)
			}
		}
		last = due
		n++
	}
	if want := 3600 * 30000 / 7; n < want-1 || n > want+1 {
		t.Errorf("%d requests in an hour, not %d", n, want)
	}
}

func TestParseHead(t *testing.T) {
	for _, c := range []struct {
		in   string
		want head
		ok   bool
	}{
		{"", head{}, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", head{}, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", head{38, 200, 5}, true},
		{"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length:\t1048576\r\nDate: x\r\n\r\n", head{59, 200, 1048576}, true},
		{"HTTP/1.0 503 Service Unavailable\r\n\r\n", head{36, 503, -1}, true},
		{"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", head{37, 200, -1}, true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", head{57, 200, -1}, true},
		{"HTTP/1.1 2x0 OK\r\n\r\n", head{19, 0, -1}, true},
		{"HTTP/1.1\r\n\r\n", head{12, 0, -1}, true},
		{"no HTTP at all\r\n\r\n", head{18, 0, -1}, true},
	} {
		if got, ok := parseHead([]byte(c.in)); got != c.want || ok != c.ok {
			t.Errorf("%q: %+v %t, not %+v %t", c.in, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 200 \r\ncontent-length:\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := parseHead(b)
		if ok && (h.size < 4 || h.size > len(b) || h.length < -1 || h.status < 0 || h.status > 999) {
			t.Errorf("%q: %+v", b, h)
		}
	})
}

// server answers with a body of the length that the path says.
func server(t *testing.T) (addr string, served *atomic.Int64) {
	t.Helper()
	served = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		var size int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &size); err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != r.ContentLength && r.ContentLength >= 0 {
			t.Errorf("request body of %d bytes: %v", n, err)
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.Copy(w, io.LimitReader(zeros{}, int64(size)))
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), served
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestClosedLoop(t *testing.T) {
	addr, served := server(t)
	for _, c := range []Config{
		{Path: "/10", Length: 10, Conns: 1},
		{Path: "/0", Length: 0, Conns: 3},
		{Path: "/3000000", Length: 3000000, Conns: 4},
		{Path: "/10", Length: 10, Conns: 8, Method: "POST", Body: 100000},
		{Path: "/20000", Length: 20000, Conns: 4, Close: true},
	} {
		served.Store(0)
		c.Addr, c.Host, c.Status, c.PIDs = addr, "x.test", 200, []int{os.Getpid()}
		c.Warmup, c.Duration = 20*time.Millisecond, 150*time.Millisecond
		r, err := Run(t.Context(), c, nil)
		if err != nil || r.Failed != 0 || r.Requests == 0 || r.Requests > served.Load() {
			t.Errorf("%+v: %+v, %v, served %d", c, r, err, served.Load())
			continue
		}
		if r.Elapsed < c.Duration || r.CPU <= 0 || r.CPU > 64*r.Elapsed {
			t.Errorf("%+v: CPU %s in %s", c, r.CPU, r.Elapsed)
		}
		// Bytes of answers that the window cut in two may be counted on either side.
		cut := int64(c.Conns) * (c.Length + 500)
		if low := r.Requests*c.Length - cut; r.Bytes < low || r.Bytes > r.Requests*(c.Length+500)+cut {
			t.Errorf("%+v: %d bytes in %d answers", c, r.Bytes, r.Requests)
		}
	}
}

// TestWrongAnswersFail: status, length, and an end too early.
func TestWrongAnswersFail(t *testing.T) {
	addr, _ := server(t)
	for _, c := range []Config{
		{Path: "/teapot", Length: 0, Status: 200},
		{Path: "/10", Length: 11, Status: 200},
		{Path: "/10", Length: 10, Status: 204},
	} {
		c.Addr, c.Host, c.Conns, c.Duration = addr, "x.test", 2, 100*time.Millisecond
		if r, err := Run(t.Context(), c, nil); err == nil && r.Failed == 0 {
			t.Errorf("%+v: %+v", c, r)
		}
	}
	for _, answer := range []string{"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n123"} {
		c := Config{Addr: scripted(t, answer), Path: "/", Host: "x.test", Conns: 1, Status: 200, Length: 10, Duration: 100 * time.Millisecond}
		if strings.HasSuffix(answer, "\r\n\r\n123") && strings.Contains(answer, "Length: 1\r") {
			c.Length = 1
		}
		if r, err := Run(t.Context(), c, nil); err == nil && r.Failed == 0 {
			t.Errorf("%q: %+v", answer, r)
		}
	}
}

// scripted answers each connection's first request with the given bytes and closes; "never" is no answer until the test ends.
func scripted(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	t.Cleanup(func() { l.Close(); close(over) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				if answer == "never" {
					<-over
					return
				}
				_, _ = io.WriteString(c, answer)
			}()
		}
	}()
	return l.Addr().String()
}

// TestOpenLoop: the rate is kept, and every request that was due is in the latencies.
func TestOpenLoop(t *testing.T) {
	addr, _ := server(t)
	c := Config{Addr: addr, Path: "/10", Length: 10, Host: "x.test", Status: 200, Conns: 16, Rate: 1000, Warmup: 50 * time.Millisecond, Duration: 400 * time.Millisecond}
	r, err := Run(t.Context(), c, nil)
	if err != nil || r.Failed != 0 {
		t.Fatal(r, err)
	}
	if n := len(r.Latencies); n < 399 || n > 401 {
		t.Errorf("%d latencies, not 400", n)
	}
	if r.P50 <= 0 || r.P99 < r.P50 || r.P999 < r.P99 || r.Max < r.P999 {
		t.Errorf("%+v", r)
	}
}

// TestNoCoordinatedOmission: one connection to a server that stalls once for 300 ms. Requests that were due meanwhile waited
// too, and their latencies say so, although they could be sent only later.
func TestNoCoordinatedOmission(t *testing.T) {
	const stall = 300 * time.Millisecond
	var served atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1) == 20 {
			<-time.After(stall)
		}
		w.Header().Set("Content-Length", "0")
	}))
	t.Cleanup(s.Close)
	c := Config{Addr: s.Listener.Addr().String(), Path: "/", Host: "x.test", Status: 200, Conns: 1, Rate: 500, Duration: time.Second}
	r, err := Run(t.Context(), c, nil)
	if err != nil || r.Failed != 0 {
		t.Fatal(r, err)
	}
	slow := 0
	for _, l := range r.Latencies {
		if l > stall/3 {
			slow++
		}
	}
	// 500/s for two thirds of the stall; a loop that waits for its answer would have measured one.
	if want := int(500 * stall.Seconds() * 2 / 3); slow < want*9/10 || r.Waited < int64(want) {
		t.Errorf("%d of %d latencies tell of the stall, at least %d must; %d waited", slow, len(r.Latencies), want, r.Waited)
	}
	if r.P50 > stall/3 {
		t.Errorf("p50 is %s: the rest of the second was quiet", r.P50)
	}
}

// TestUnansweredCounts: an answer that never comes is a failure of the open loop, not a gap in it.
func TestUnansweredCounts(t *testing.T) {
	c := Config{Addr: scripted(t, "never"), Path: "/", Host: "x.test", Status: 200, Conns: 2, Rate: 100, Duration: 100 * time.Millisecond}
	r, err := Run(t.Context(), c, nil)
	if err != nil || r.Failed < 9 || r.Failed > 11 || r.Requests != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestServe: the generator is client and upstream at once; here of itself, without a proxy between.
func TestServe(t *testing.T) {
	for _, rate := range []float64{0, 2000} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		c := Config{Addr: addr, Serve: addr, Path: "/", Length: 1024, Host: "x.test", Status: 200, Conns: 8, Rate: rate, Duration: 100 * time.Millisecond}
		r, err := Run(t.Context(), c, nil)
		if err != nil || r.Failed != 0 || r.Requests < 150 {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

func TestHold(t *testing.T) {
	addr, served := server(t)
	ctx, cancel := context.WithCancel(t.Context())
	held := false
	c := Config{Addr: addr, Path: "/10", Length: 10, Host: "x.test", Status: 200, Conns: 100, Hold: true}
	_, err := Run(ctx, c, func(r Result) {
		held = r.Requests == 100 && served.Load() == 100
		cancel()
	})
	if err != nil || !held {
		t.Errorf("held %t, served %d: %v", held, served.Load(), err)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []Config{
		{}, {Conns: 1}, {Conns: 1, Duration: 1, Rate: -1}, {Conns: 1, Duration: 1, Rate: 1, Close: true}, {Conns: 1, Hold: true, Close: true},
		{Conns: 1, Duration: 1, Addr: "[::1]:80"}, {Conns: 1, Duration: 1, Addr: "nowhere"},
		{Conns: 1, Duration: 1, Addr: "127.0.0.1:1", PIDs: []int{1<<22 + 1}},
	} {
		if _, err := Run(t.Context(), c, nil); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

// TestCPUTime: the time of threads that ended is in it.
func TestCPUTime(t *testing.T) {
	before, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
	}
	after, err := CPUTime(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("%s, then %s: %v", before, after, err)
	}
}
