package hcm_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

func start(t *testing.T, script func(*planetest.Conn)) (*planetest.Plane, planetest.Service, *planetest.Upstream) {
	t.Helper()
	u := planetest.NewUpstream(t, script)
	s := planetest.One(u.Addr)
	return planetest.Start(t, dataplane.Options{}, s), s, u
}

// script reads requests and answers each with the next text; the connection is closed after the last.
func script(answers ...string) func(*planetest.Conn) {
	return func(c *planetest.Conn) {
		for _, a := range answers {
			if c.Request() == nil {
				return
			}
			c.Send(a)
		}
	}
}

// hold keeps the connection open after the script.
func hold(s func(*planetest.Conn)) func(*planetest.Conn) {
	return func(c *planetest.Conn) {
		s(c)
		c.Gone()
	}
}

const get = "GET / HTTP/1.1\r\nHost: svc.test\r\n\r\n"
const last = "GET / HTTP/1.1\r\nHost: svc.test\r\nConnection: close\r\n\r\n"
const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
const okClose = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

// exchanges are what clients send, what endpoints do, and what comes back.
var exchanges = []struct {
	name     string
	upstream func(*planetest.Conn)
	send     string
	fin      bool // the client ends its direction
	want     string
	reset    bool
	got      []string // requests that arrived; nil: not looked at
}{
	{name: "close asked for", upstream: hold(script(ok)), send: last, want: okClose},
	{name: "pipelined", upstream: hold(script(planetest.Response(200, "1"), planetest.Response(200, "2"), planetest.Response(200, "3"))),
		send: planetest.Request("GET", "/1", "") + planetest.Request("POST", "/2", "two") + strings.Replace(last, "GET /", "GET /3", 1),
		want: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2" +
			"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n3",
		got: []string{"GET /1", "POST /2 two", "GET /3"}},
	{name: "pipelined, then FIN", upstream: hold(script(ok, ok, ok)), send: get + get + get, fin: true, want: ok + ok + ok},
	{name: "pipelined with refusals between", upstream: hold(script(ok, ok)), fin: true,
		send: get + "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n" + get,
		want: ok + "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n" + ok},
	{name: "pipelined garbage is refused after the answer", upstream: hold(script(ok)), send: get + "\x00\x01\r\n\r\n", fin: true,
		want: ok + "HTTP/1.1 400 Bad Request\r\ncontent-length: 28\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\ncontrol byte in header block"},
	{name: "half a request, then FIN", upstream: hold(script(ok)), send: get + "GET / HT", fin: true,
		want: ok + "HTTP/1.1 400 Bad Request"},
	{name: "half a body, then FIN", upstream: func(c *planetest.Conn) { c.Gone() }, fin: true,
		send: "POST / HTTP/1.1\r\nHost: svc.test\r\nContent-Length: 10\r\n\r\nabc", want: "HTTP/1.1 400 Bad Request"},
	{name: "HEAD", upstream: hold(script("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ok)),
		send: "HEAD / HTTP/1.1\r\nHost: svc.test\r\n\r\n" + last, want: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + okClose},
	{name: "204 and 304", upstream: hold(script("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", ok)),
		send: get + get + last,
		want: "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n" + okClose},
	{name: "1xx", upstream: hold(script("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n" + ok)), send: last,
		want: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n" + okClose},
	{name: "1xx to HTTP/1.0", upstream: hold(script("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok)),
		send: "GET / HTTP/1.0\r\nHost: svc.test\r\n\r\n", want: okClose},
	{name: "HTTP/1.0 keep-alive", upstream: hold(script(ok, ok)),
		send: "GET / HTTP/1.0\r\nHost: svc.test\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nHost: svc.test\r\n\r\n",
		want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok" + okClose},
	{name: "chunked to HTTP/1.0", upstream: hold(script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n")),
		send: "GET / HTTP/1.0\r\nHost: svc.test\r\n\r\n", want: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde"},
	{name: "until close", upstream: script("HTTP/1.1 200 OK\r\n\r\nall of it"), send: get,
		want: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"},
	{name: "chunked with trailers", upstream: hold(script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", ok)),
		send: get + last, want: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n" + okClose},
	{name: "trailers that are none", upstream: hold(script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\nSet-Cookie: a\r\n\r\n")),
		send: last, want: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nX-T: 1\r\n\r\n"},
	{name: "broken chunk", upstream: hold(script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX")), send: get,
		want: "", reset: true},
	{name: "body cut short by FIN", upstream: script("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), send: get,
		want: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", reset: true},
	{name: "chunked body cut short by FIN, to HTTP/1.0", send: "GET / HTTP/1.0\r\nHost: svc.test\r\n\r\n", reset: true,
		upstream: script("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), want: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"},
	{name: "101 that nobody asked for", upstream: hold(script("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")),
		send: last, want: "HTTP/1.1 502 Bad Gateway"},
	{name: "smuggled second response", upstream: hold(script(ok + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")), send: last, want: okClose},
	{name: "CONNECT on a listener", upstream: hold(script()), send: "CONNECT svc.test:80 HTTP/1.1\r\nHost: svc.test:80\r\n\r\n",
		want: "HTTP/1.1 405 Method Not Allowed"},
}

// TestExchange is what a client gets, byte for byte, until its connection is closed.
func TestExchange(t *testing.T) {
	for _, c := range exchanges {
		t.Run(c.name, func(t *testing.T) {
			p, s, u := start(t, c.upstream)
			client := p.Dial(s.Address())
			client.Send(c.send)
			if c.fin {
				if err := client.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			got, err := client.Rest()
			if c.want != got && !strings.HasPrefix(got, c.want) || len(c.want) > len(got) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if strings.HasSuffix(c.want, "ok") && got != c.want {
				t.Errorf("got more: %q\nwant %q", got, c.want)
			}
			if (err != nil) != c.reset {
				t.Errorf("ended with %v, reset wanted: %v", err, c.reset)
			}
			if c.got != nil && strings.Join(u.Got(), ",") != strings.Join(c.got, ",") {
				t.Errorf("endpoint got %q, want %q", u.Got(), c.got)
			}
		})
	}
}

// TestKeepAlive: requests of several clients share a connection, and an idle one that the endpoint ends is noticed.
func TestKeepAlive(t *testing.T) {
	end := make(chan struct{})
	p, s, u := start(t, func(c *planetest.Conn) {
		if c.Nth > 1 {
			planetest.Serve("new")(c)
			return
		}
		script(planetest.Response(200, "a"), planetest.Response(200, "b"))(c)
		<-end
	})
	first, second := p.Dial(s.Address()), p.Dial(s.Address())
	if a, b := first.Do("GET", ""), second.Do("POST", "x"); a.Text+b.Text != "ab" || u.Conns() != 1 {
		t.Fatalf("got %q and %q over %d connections, want one", a.Text, b.Text, u.Conns())
	}
	st := p.Cluster(s).Stats()
	close(end)
	planetest.Until(t, "the FIN of an idle connection", func() bool { return st.UpstreamCxDestroyRemote.Value() == 1 })
	if a := first.Do("POST", "x"); a.Text != "new" || st.Detour.RetryUnsent.Value() != 0 {
		t.Errorf("got %q, %d attempts in vain", a.Text, st.Detour.RetryUnsent.Value())
	}
}

// TestUnsolicited: bytes behind an answer that fills the window exactly are not taken for the next answer.
func TestUnsolicited(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\nContent-Length: 32000\r\nX: "
	first := head + strings.Repeat("p", 32768-32000-len(head)-4) + "\r\n\r\n" + strings.Repeat("b", 32000)
	p, s, _ := start(t, func(c *planetest.Conn) {
		if c.Nth == 1 {
			c.Request()
			c.Send(first + planetest.Response(200, "evil"))
			c.Gone()
			return
		}
		planetest.Serve("good")(c)
	})
	client := p.Dial(s.Address())
	client.Send(planetest.Request("GET", "/", "") + planetest.Request("GET", "/", ""))
	if a := client.Read("GET"); len(a.Text) != 32000 {
		t.Fatalf("got %d bytes", len(a.Text))
	}
	if a := client.Read("GET"); a.Text != "good" {
		t.Errorf("second request got %q", a.Text)
	}
}

// TestEarlyResponse: an endpoint may answer and close before it has read the request; the client gets the answer.
func TestEarlyResponse(t *testing.T) {
	for _, how := range []string{"close", "reset", "keep"} {
		t.Run(how, func(t *testing.T) {
			p, s, _ := start(t, func(c *planetest.Conn) {
				if _, err := c.R.ReadString('\n'); err != nil {
					return
				}
				c.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
				switch how {
				case "keep":
					c.Gone()
				case "reset": // what was not read makes it one
				case "close":
					_ = c.CloseWrite()
					c.Gone()
				}
			})
			client := p.Dial(s.Address())
			client.Send("POST / HTTP/1.1\r\nHost: svc.test\r\nContent-Length: 50000000\r\n\r\n")
			sent := make(chan struct{})
			go func() { // as most clients, this one writes until it can't
				defer close(sent)
				_, _ = io.CopyN(client.TCPConn, zeros{}, 50000000)
			}()
			if a := client.Read("POST"); a.StatusCode != 413 || a.Text != "big" {
				t.Errorf("got %d %q", a.StatusCode, a.Text)
			}
			_ = client.Close()
			<-sent
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestExpect: 100 (Continue) comes from the endpoint, before the body.
func TestExpect(t *testing.T) {
	p, s, u := start(t, func(c *planetest.Conn) {
		c.Send("HTTP/1.1 100 Continue\r\n\r\n")
		c.Request()
		c.Send(planetest.Response(200, "done"))
		c.Gone()
	})
	client := p.Dial(s.Address())
	client.Send("PUT /x HTTP/1.1\r\nHost: svc.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if a := client.ReadOne("PUT"); a.StatusCode != 100 {
		t.Fatalf("got %d before the body", a.StatusCode)
	}
	client.Send("body")
	if a := client.Read("PUT"); a.Text != "done" || u.Got()[0] != "PUT /x body" {
		t.Errorf("got %q, endpoint %q", a.Text, u.Got())
	}
}

// TestUpgrade: after 101 the bytes pass both ways, those behind the heads too, and the ends one by one.
func TestUpgrade(t *testing.T) {
	p, s, _ := start(t, func(c *planetest.Conn) {
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = c.R.ReadString('\n'); err != nil {
				return
			}
		}
		c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello ")
		got, err := c.Rest()
		if err != nil {
			t.Error(err)
		}
		c.Send("got " + got)
	})
	client := p.Dial(s.Address())
	client.Send("GET /chat HTTP/1.1\r\nHost: svc.test\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nearly ")
	if a := client.ReadOne("GET"); a.StatusCode != 101 || a.Header.Get("Upgrade") != "chat" {
		t.Fatalf("got %d %v", a.StatusCode, a.Header)
	}
	client.Send("late")
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Rest(); got != "hello got early late" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if i := p.Ended(); i.Code != 101 || i.BytesReceived != 10 || i.BytesSent != 20 {
		t.Errorf("logged %d, %d bytes up, %d down", i.Code, i.BytesReceived, i.BytesSent)
	}
}

// TestTimeouts of a request: nothing moves, the route's time is over.
func TestTimeouts(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(*planetest.Service)
		want  string
		flags string
	}{
		{"stream idle", func(s *planetest.Service) { s.StreamIdle = 20 * time.Millisecond }, "stream timeout", "SI"},
		{"route", func(s *planetest.Service) { s.Timeout = 20 * time.Millisecond }, "upstream request timeout", "UT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := planetest.NewUpstream(t, func(c *planetest.Conn) {
				c.Request()
				c.Gone()
			})
			s := planetest.One(u.Addr)
			c.set(&s)
			p := planetest.Start(t, dataplane.Options{}, s)
			client := p.Dial(s.Address())
			for range 2 { // and the connection goes on
				if a := client.Do("GET", ""); a.StatusCode != 504 || a.Text != c.want {
					t.Errorf("got %d %q", a.StatusCode, a.Text)
				}
				if i := p.Ended(); i.Flags.String() != c.flags {
					t.Errorf("flags %v, want %s", i.Flags, c.flags)
				}
			}
		})
	}
}
