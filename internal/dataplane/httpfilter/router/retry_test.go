package router_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

// explicit is a route's own policy.
func explicit(on string, retries uint32, codes ...uint32) *routev3.RetryPolicy {
	return &routev3.RetryPolicy{RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{Name: "envoy.retry_host_predicates.previous_hosts"}}, RetryOn: on, NumRetries: wrapperspb.UInt32(retries), RetriableStatusCodes: codes,
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(time.Millisecond)}}
}

// failures are what the first endpoint does to a request.
var failures = map[string]func(*planetest.Conn){
	"reset after the request": func(c *planetest.Conn) {
		c.Request()
		c.Reset()
	},
	"closed after the request": func(c *planetest.Conn) { c.Request() },
	"502":                      status(502),
	"503":                      status(503),
	"503 with Retry-After": func(c *planetest.Conn) {
		for c.Request() != nil {
			c.Send("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy")
		}
	},
	"504": status(504),
	"500": status(500),
	"garbage": func(c *planetest.Conn) {
		c.Request()
		c.Send("SSH-2.0-OpenSSH_9.2\r\n")
		c.Gone()
	},
	"half a head": func(c *planetest.Conn) {
		c.Request()
		c.Send("HTTP/1.1 200 OK\r\nConte")
		c.Reset()
	},
	"no answer": func(c *planetest.Conn) {
		c.Request()
		c.Gone()
	},
}

func status(code int) func(*planetest.Conn) {
	return func(c *planetest.Conn) {
		for c.Request() != nil {
			c.Send(planetest.Response(code, "no"))
		}
	}
}

// service is what a case changes of the service.
type service func(*planetest.Service)

func none(*planetest.Service)      {}
func outlier(s *planetest.Service) { s.Outlier = true }
func off(s *planetest.Service)     { s.NoRetry, s.Outlier = true, true }

func own(on string, n uint32, codes ...uint32) service {
	return func(s *planetest.Service) { s.Retry, s.Outlier = explicit(on, n, codes...), true }
}

// sent is guarantee E2's table for requests whose bytes went out.
var sent = []struct {
	failure string
	policy  string
	set     service
	method  string
	body    string
	want    int // status; 200 is the second endpoint's
}{
	{"reset after the request", "default", none, "GET", "", 200},
	{"reset after the request", "default", none, "PUT", "x", 200},
	{"reset after the request", "default", none, "DELETE", "", 200},
	{"reset after the request", "default", none, "POST", "x", 503},
	{"reset after the request", "default", none, "PATCH", "x", 503},
	{"reset after the request", "default", none, "LOCK", "", 503},
	{"reset after the request", "default", none, "PUT", strings.Repeat("x", 200<<10), 503}, // too large to be kept
	{"reset after the request", "attempts 0", off, "GET", "", 503},
	{"reset after the request", "reset", own("reset", 2), "GET", "", 200},
	{"reset after the request", "reset", own("reset", 2), "POST", "x", 200}, // the route asks for it
	{"reset after the request", "connect-failure", own("connect-failure", 2), "GET", "", 503},
	{"reset after the request", "reset 0", own("reset", 0), "GET", "", 503},
	{"closed after the request", "default", none, "GET", "", 200},
	{"closed after the request", "default", none, "POST", "x", 503},
	{"half a head", "default", none, "GET", "", 200},
	{"half a head", "default", none, "POST", "x", 503},
	{"garbage", "default", none, "GET", "", 502},
	{"502", "default", none, "GET", "", 502}, // no outlier detection: nobody said that these are failures
	{"502", "default", outlier, "GET", "", 200},
	{"503", "default", outlier, "GET", "", 200},
	{"503", "default", outlier, "OPTIONS", "", 200},
	{"503", "default", outlier, "PUT", "x", 503},
	{"503", "default", outlier, "POST", "x", 503},
	{"503 with Retry-After", "default", outlier, "GET", "", 503},
	{"504", "default", outlier, "GET", "", 200},
	{"500", "default", outlier, "GET", "", 500},
	{"503", "attempts 0", off, "GET", "", 503},
	{"503", "5xx", own("5xx", 2), "POST", "x", 200},
	{"500", "5xx", own("5xx", 2), "GET", "", 200},
	{"500", "gateway-error", own("gateway-error", 2), "GET", "", 500},
	{"500", "codes", own("retriable-status-codes", 2, 500), "GET", "", 200},
	{"503 with Retry-After", "5xx", own("5xx", 2), "GET", "", 200},
	{"garbage", "reset", own("reset", 2), "GET", "", 200},
}

// TestSentRequests goes through sent.
func TestSentRequests(t *testing.T) {
	for _, c := range sent {
		name := c.failure + "/" + c.policy + "/" + c.method
		if len(c.body) > 10 {
			name += " large"
		}
		t.Run(name, func(t *testing.T) {
			bad := planetest.NewUpstream(t, failures[c.failure])
			good := planetest.NewUpstream(t, planetest.Serve("second"))
			s := planetest.One(bad.Addr, good.Addr)
			c.set(&s)
			p := planetest.Start(t, dataplane.Options{}, s)
			client := p.Dial(s.Address())
			a := client.Do(c.method, c.body)
			if a.StatusCode != c.want {
				t.Errorf("got %d %q, want %d", a.StatusCode, a.Text, c.want)
			}
			if n, most := len(bad.Got())+len(good.Got()), 1; a.StatusCode != 200 && n > most {
				t.Errorf("the request was delivered %d times: %v %v", n, bad.Got(), good.Got())
			}
			if a.StatusCode == 200 && (a.Text != "second" || len(good.Got()) != 1) {
				t.Errorf("served by %q, second endpoint got %v", a.Text, good.Got())
			}
			if a := client.Do("GET", ""); a.StatusCode == 0 {
				t.Error("the connection is unusable")
			}
		})
	}
}

// TestUnsentRequests is E2's table for requests of which no byte can have been processed.
func TestUnsentRequests(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(*planetest.Service)
		method string
		body   string
		want   int
	}{
		{"default", nil, "GET", "", 200},
		{"default", nil, "POST", "x", 200},
		{"default, large", nil, "POST", strings.Repeat("x", 200<<10), 200}, // nothing was sent, so nothing is missing
		{"default, larger", nil, "POST", strings.Repeat("x", 4<<20), 200},
		{"own policy", func(s *planetest.Service) { s.Retry = explicit("5xx", 1) }, "POST", "x", 200},
		{"own policy without retries", func(s *planetest.Service) { s.Retry = explicit("gateway-error", 0) }, "POST", "x", 200},
		{"attempts 0", func(s *planetest.Service) { s.NoRetry = true }, "GET", "", 503},
		{"attempts 0", func(s *planetest.Service) { s.NoRetry = true }, "POST", "x", 503},
	} {
		t.Run(c.name+"/"+c.method, func(t *testing.T) {
			good := planetest.NewUpstream(t, planetest.Serve("last"))
			// More refusing endpoints than any number of retries, so that nothing counts against it.
			s := planetest.One(planetest.Refused(t), planetest.Refused(t), planetest.Refused(t), planetest.Refused(t), good.Addr)
			if c.set != nil {
				c.set(&s)
			}
			p := planetest.Start(t, dataplane.Options{}, s)
			a := p.Dial(s.Address()).Do(c.method, c.body)
			if a.StatusCode != c.want {
				t.Fatalf("got %d %q, want %d", a.StatusCode, a.Text, c.want)
			}
			i := p.Ended()
			if want := map[int]int{200: 5, 503: 1}[c.want]; i.Attempts != want {
				t.Errorf("%d attempts, want %d", i.Attempts, want)
			}
			if c.want == 503 && i.Flags.String() != "UF" {
				t.Errorf("flags %v, want UF", i.Flags)
			}
		})
	}
}

// TestBudget: beyond 3 at once, 20 % of the requests of the last 10 s may be sent twice.
func TestBudget(t *testing.T) {
	begun := make(chan struct{}, 64)
	reset := make(chan struct{})
	bad := planetest.NewUpstream(t, func(c *planetest.Conn) {
		c.Request()
		begun <- struct{}{}
		<-reset
		c.Reset()
	})
	hold := make(chan struct{})
	let := sync.OnceFunc(func() { close(hold) })
	good := planetest.NewUpstream(t, func(c *planetest.Conn) {
		c.Request()
		<-hold
		c.Send(planetest.Response(200, "second"))
	})
	s := planetest.One(bad.Addr, good.Addr)
	p := planetest.Start(t, dataplane.Options{}, s)
	const n = 10
	var clients []*planetest.Client
	for range n {
		c := p.Dial(s.Address())
		c.Send(planetest.Request("GET", "/", ""))
		clients = append(clients, c)
		<-begun
	}
	close(reset)
	st := p.Cluster(s).Stats()
	defer func() {
		let()
		if t.Failed() {
			t.Logf("%d sent again, %d not, %d elsewhere, of %d", st.Detour.RetrySent.Value(), st.Detour.RetryBudget.Value(),
				st.Detour.RetryUnsent.Value(), st.UpstreamRqTotal.Value())
		}
	}()
	planetest.Until(t, "every request was reset", func() bool {
		return st.Detour.RetrySent.Value()+st.Detour.RetryBudget.Value() == n
	})
	let()
	codes := map[int]int{}
	for _, c := range clients {
		codes[c.Read("GET").StatusCode]++
	}
	if codes[200] != 3 || codes[503] != n-3 {
		t.Errorf("got %v, want 3 × 200: three at once, and 20 %% of 10 are less", codes)
	}
	planetest.Until(t, "all places are given back", func() bool { return p.Cluster(s).Retry().InFlight() == 0 })
}

// TestBudgetAfterStatus: the place that a second attempt held is given back when a third takes another.
func TestBudgetAfterStatus(t *testing.T) {
	a, b := planetest.NewUpstream(t, status(503)), planetest.NewUpstream(t, status(502))
	good := planetest.NewUpstream(t, planetest.Serve("third"))
	s := planetest.One(a.Addr, b.Addr, good.Addr)
	s.Outlier = true
	p := planetest.Start(t, dataplane.Options{}, s)
	if got := p.Dial(s.Address()).Do("GET", ""); got.Text != "third" {
		t.Fatalf("got %d %q", got.StatusCode, got.Text)
	}
	planetest.Until(t, "budget given back", func() bool { return p.Cluster(s).Retry().InFlight() == 0 })
}

// TestOneEndpoint: with nobody else to go to, what may be sent again goes to the same endpoint.
func TestOneEndpoint(t *testing.T) {
	second := func(first func(*planetest.Conn)) func(*planetest.Conn) {
		return func(c *planetest.Conn) {
			if c.Nth == 1 {
				first(c)
				return
			}
			planetest.Serve("again")(c)
		}
	}
	for _, c := range []struct {
		failure, method string
		retry           *routev3.RetryPolicy
		want            int
	}{
		{"reset after the request", "GET", nil, 200},
		{"reset after the request", "POST", nil, 503},
		{"reset after the request", "POST", explicit("reset", 1), 200},
		{"503", "POST", explicit("5xx", 1), 200},
		{"503", "GET", nil, 503},
	} {
		t.Run(c.failure+"/"+c.method, func(t *testing.T) {
			f := failures[c.failure]
			if c.failure == "503" {
				f = func(c *planetest.Conn) { // once, and then this connection is over
					c.Request()
					c.Send("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				}
			}
			u := planetest.NewUpstream(t, second(f))
			s := planetest.One(u.Addr)
			s.Retry, s.Outlier = c.retry, true
			p := planetest.Start(t, dataplane.Options{}, s)
			if a := p.Dial(s.Address()).Do(c.method, ""); a.StatusCode != c.want {
				t.Errorf("got %d %q, want %d", a.StatusCode, a.Text, c.want)
			}
		})
	}
}

// TestOwnPolicyOnRefusal: a route that retries connect-failure gets its retries where there is only one endpoint.
func TestOwnPolicyOnRefusal(t *testing.T) {
	s := planetest.One(planetest.Refused(t))
	s.Retry = explicit("connect-failure", 2)
	p := planetest.Start(t, dataplane.Options{}, s)
	a := p.Dial(s.Address()).Do("POST", "x")
	i := p.Ended()
	if a.StatusCode != 503 || i.Attempts != 3 || i.Flags.String() != "UF,URX" {
		t.Errorf("got %d after %d attempts with %v, want 503, 3, UF,URX", a.StatusCode, i.Attempts, i.Flags)
	}
}
