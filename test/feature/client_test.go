//go:build linux

package feature

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// client is an application: it asks for mydb.com and knows of nothing else.
type client struct {
	w    *world
	http *http.Client
}

// client gives an application that is told of the forward proxy.
func (w *world) client() *client {
	tr := &http.Transport{
		Proxy:        http.ProxyURL(&url.URL{Scheme: "http", Host: forwardAddr}),
		DialContext:  func(context.Context, string, string) (net.Conn, error) { return w.dial(forwardAddr) },
		MaxIdleConns: 256, MaxIdleConnsPerHost: 256,
	}
	return w.newClient(tr)
}

// captured gives an application that knows nothing of detour: its connections to the allocated address are redirected.
func (p *proxy) captured() *client {
	p.w.captureOnce()
	tr := &http.Transport{
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			name, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return p.w.dial(net.JoinHostPort(p.lookup(name).String(), port))
		},
		MaxIdleConnsPerHost: 256,
	}
	return p.w.newClient(tr)
}

func (w *world) newClient(tr *http.Transport) *client {
	w.t.Cleanup(tr.CloseIdleConnections)
	return &client{w: w, http: &http.Client{Transport: tr, Timeout: patience}}
}

// fresh lets the next request open a new connection.
func (c *client) fresh() *client {
	c.http.CloseIdleConnections()
	return c
}

// do sends one request with an id of its own.
func (c *client) do(method, url, body string) result {
	r := result{ID: fmt.Sprintf("%s-%d", method, c.w.ids.Add(1))}
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, rd)
	if err != nil {
		return result{Err: err}
	}
	req.GetBody = nil // the client must not send anything again by itself
	req.Header.Set("X-Request-Id", r.ID)
	tries := 0
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { tries++ }}))
	begin := time.Now()
	resp, err := c.http.Do(req)
	if err == nil && tries > 1 { // Go's own client covers up for a proxy that hung up
		err = fmt.Errorf("answered at the client's try number %d", tries)
		resp.Body.Close()
	}
	if err != nil {
		r.Err, r.Took = err, time.Since(begin)
		return r
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	r.Status, r.Body, r.Err, r.Took, r.Header = resp.StatusCode, strings.TrimSpace(string(b)), err, time.Since(begin), resp.Header
	return r
}

func (c *client) get() result  { return c.do("GET", "http://"+service1+"/", "") }
func (c *client) post() result { return c.do("POST", "http://"+service1+"/", "a body of some bytes") }

// gets sends n requests one after the other.
func (c *client) gets(n int) []result {
	out := make([]result, n)
	for i := range out {
		out[i] = c.get()
	}
	return out
}

// load sends requests from several goroutines until stop, and gives what came back.
type load struct {
	t    testing.TB
	late atomic.Int64 // the most that a timer was late, in ns
	quit chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	gets []result
	post []result
}

// load begins to send from n connections, each of them a request in every period; each fourth is a POST.
func (c *client) load(n int, every time.Duration) *load {
	l := &load{t: c.w.t, quit: make(chan struct{})}
	for i := range n {
		l.wg.Go(func() {
			pace := time.NewTicker(every)
			defer pace.Stop()
			for j := i; ; j++ {
				if j%4 == 3 {
					l.add(&l.post, c.post())
				} else {
					l.add(&l.gets, c.get())
				}
				select {
				case <-l.quit:
					return
				case <-pace.C:
				}
			}
		})
	}
	l.wg.Go(l.metronome)
	c.w.t.Cleanup(l.halt)
	return l
}

// metronome measures how late this machine is: on a busy one everybody waits, and what is measured says less of the proxy.
func (l *load) metronome() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-l.quit:
			return
		case <-t.C:
			l.late.Store(max(l.late.Load(), int64(time.Since(last)-tick)))
		}
	}
}

func (l *load) add(to *[]result, r result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*to = append(*to, r)
}

func (l *load) halt() {
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.wg.Wait()
}

// stop ends the load.
func (l *load) stop() (gets, posts []result) {
	l.halt()
	return l.gets, l.post
}

// more waits until n more GETs are answered.
func (l *load) more(n int) {
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.gets)
	}
	want := count() + n
	await(l.t, "more requests are answered", func() bool { return count() >= want })
}

// served wants that each GET was answered by an endpoint, and in time: a little over the limit is the machine's where
// timers were late too.
func (l *load) served(t testing.TB, gets []result, limit time.Duration) {
	t.Helper()
	late := time.Duration(l.late.Load())
	limit += 3 * late
	var slowest time.Duration
	for _, r := range gets {
		if s := r.String(); s != fromEast && s != fromWest {
			t.Errorf("%s after %v: %s", r.ID, r.Took, s)
		}
		slowest = max(slowest, r.Took)
	}
	if slowest > limit {
		t.Errorf("the slowest of %d GETs took %v, want at most %v", len(gets), slowest, limit)
	}
	t.Logf("%d GETs: %v, the slowest took %v, timers were up to %v late", len(gets), bodies(gets), slowest, late)
}

// limit bounds everything that is done with a connection.
func limit(c net.Conn) { _ = c.SetDeadline(time.Now().Add(patience)) }
