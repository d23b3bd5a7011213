package router_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

// TestBodyDuringBackOff: what arrives of a body while the request waits for its next attempt is sent behind what the
// attempt before had sent already.
func TestBodyDuringBackOff(t *testing.T) {
	failed := make(chan struct{})
	bad := planetest.NewUpstream(t, func(c *planetest.Conn) {
		_, _ = io.CopyN(io.Discard, c.R, 1000)
		c.Reset()
		close(failed)
	})
	whole := strings.Repeat("0123456789abcdef", 10000)
	got := make(chan string, 1)
	good := planetest.NewUpstream(t, func(c *planetest.Conn) {
		r, err := http.ReadRequest(c.R)
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		c.Send(planetest.Response(200, "second"))
		c.Gone()
	})
	s := planetest.One(bad.Addr, good.Addr)
	s.Retry = explicit("reset", 1)
	s.Retry.RetryBackOff.BaseInterval = durationpb.New(300 * time.Millisecond)
	p := planetest.Start(t, dataplane.Options{}, s)
	c := p.Dial(s.Address())
	text := planetest.Request("PUT", "/", whole)
	c.Send(text[:2000])
	<-failed
	planetest.Until(t, "the reset was seen", func() bool { return p.Cluster(s).Stats().UpstreamRqRetryBackoffExp.Value() == 1 })
	c.Send(text[2000:])
	if a := c.Read("PUT"); a.Text != "second" {
		t.Fatalf("got %d %q", a.StatusCode, a.Text)
	}
	if <-got != whole {
		t.Error("the body arrived with a hole")
	}
}

// TestOneResponse: once the head of an answer has gone to the client nothing can replace it, whatever the policy.
func TestOneResponse(t *testing.T) {
	for name, rest := range map[string]string{"garbage in chunks": "3\r\nabcXX", "reset": ""} {
		t.Run(name, func(t *testing.T) {
			begun := make(chan struct{})
			bad := planetest.NewUpstream(t, func(c *planetest.Conn) {
				c.Request()
				c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
				<-begun
				c.Send(rest)
				c.Reset()
			})
			good := planetest.NewUpstream(t, planetest.Serve("second"))
			s := planetest.One(bad.Addr, good.Addr)
			s.Retry = explicit("5xx,reset", 2)
			p := planetest.Start(t, dataplane.Options{}, s)
			c := p.Dial(s.Address())
			c.Send(planetest.Request("GET", "/", ""))
			resp, err := http.ReadResponse(c.R, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			close(begun)
			if b, err := io.ReadAll(resp.Body); err == nil || strings.Contains(string(b), "HTTP") {
				t.Errorf("then came %q, %v", b, err)
			}
			if len(good.Got()) > 0 {
				t.Errorf("the request went to another endpoint: %v", good.Got())
			}
		})
	}
}

// TestTimeoutOfTry: per_try_timeout ends an attempt, and the policy says whether another follows.
func TestTimeoutOfTry(t *testing.T) {
	bad := planetest.NewUpstream(t, failures["no answer"])
	good := planetest.NewUpstream(t, planetest.Serve("second"))
	for _, c := range []struct {
		on   string
		want int
	}{{"5xx", 200}, {"connect-failure", 504}} {
		s := planetest.One(bad.Addr, good.Addr)
		s.Retry = explicit(c.on, 1)
		s.Retry.PerTryTimeout = durationpb.New(30 * time.Millisecond)
		p := planetest.Start(t, dataplane.Options{}, s)
		if a := p.Dial(s.Address()).Do("POST", "x"); a.StatusCode != c.want {
			t.Errorf("%s: got %d, want %d", c.on, a.StatusCode, c.want)
		}
	}
}
