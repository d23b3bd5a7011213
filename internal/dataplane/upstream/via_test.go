package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
)

// resolveProxy knows one proxy by its name, and literal addresses.
func resolveProxy(hostport string) (netip.AddrPort, error) {
	if hostport == "proxy.test:3128" {
		return netip.MustParseAddrPort("192.0.2.1:3128"), nil
	}
	return netip.ParseAddrPort(hostport)
}

func TestForwardProxyFor(t *testing.T) {
	env := map[string]string{"http_proxy": "http://us%65r:p%40ss@proxy.test:3128", "https_proxy": "192.0.2.2:8080",
		"no_proxy": "exact.test,.suffix.test,10.1.0.0/16,192.0.2.77,port.test:81"}
	f, err := NewForwardProxy(env, resolveProxy)
	if err != nil {
		t.Fatal(err)
	}
	const basic = "Basic dXNlcjpwQHNz" // user:p@ss
	for _, tc := range []struct {
		name, addr string
		want       string // "PROXY TARGET AUTH", or empty for the direct way
	}{
		{"db.test:80", "198.51.100.1:80", "192.0.2.1:3128 db.test:80 " + basic},
		{"db.test:443", "198.51.100.1:443", "192.0.2.2:8080 db.test:443 "},
		{"db.test:8443", "198.51.100.1:8443", "192.0.2.1:3128 db.test:8443 " + basic},
		{"198.51.100.1:80", "198.51.100.1:80", "192.0.2.1:3128 198.51.100.1:80 " + basic},
		{"[2001:db8::1]:443", "[2001:db8::1]:443", "192.0.2.2:8080 [2001:db8::1]:443 "},
		{"exact.test:80", "198.51.100.1:80", ""},
		{"sub.exact.test:443", "198.51.100.1:443", ""}, // a name stands for what is below it, too
		{"notexact.test:80", "198.51.100.1:80", "192.0.2.1:3128 notexact.test:80 " + basic},
		{"a.suffix.test:80", "198.51.100.1:80", ""},
		{"suffix.test:80", "198.51.100.1:80", "192.0.2.1:3128 suffix.test:80 " + basic},
		{"port.test:81", "198.51.100.1:81", ""},
		{"port.test:80", "198.51.100.1:80", "192.0.2.1:3128 port.test:80 " + basic},
		{"10.1.2.3:80", "10.1.2.3:80", ""},
		{"in-cidr.test:80", "10.1.2.3:80", ""},
		{"by-address.test:443", "192.0.2.77:443", ""},
		{"home.test:80", "127.0.0.1:80", ""},
		{"[::1]:80", "[::1]:80", ""},
		{"169.254.169.254:80", "169.254.169.254:80", ""},
		{"evil.test:80\r\nX: y", "198.51.100.1:80", "192.0.2.1:3128 198.51.100.1:80 " + basic},
		{"", "198.51.100.1:80", "192.0.2.1:3128 198.51.100.1:80 " + basic},
	} {
		got := ""
		if v := f.For(&lb.Host{Name: tc.name, Address: netip.MustParseAddrPort(tc.addr)}); v != nil {
			got = v.addr.String() + " " + v.target + " " + v.auth
		}
		if got != tc.want {
			t.Errorf("%q at %s: got %q, want %q", tc.name, tc.addr, got, tc.want)
		}
	}
	if v := f.For(&lb.Host{Name: "/run/x", Path: "/run/x"}); v != nil {
		t.Errorf("a unix socket: %+v", v)
	}
	var none *ForwardProxy
	if v := none.For(&lb.Host{Name: "db.test:80", Address: netip.MustParseAddrPort("198.51.100.1:80")}); v != nil || none.Refresh() != nil {
		t.Errorf("no proxy: %+v", v)
	}
}

func TestNewForwardProxy(t *testing.T) {
	for _, tc := range []struct{ proxy, want string }{
		{"", ""},
		{"socks5://user:secret@h:1", "http_proxy names a proxy of the kind socks5://; only http:// can be used"},
		{"https://user:secret@h:1", "http_proxy names a proxy of the kind https://; only http:// can be used"},
		{"http://", "http_proxy is not a URL of a proxy"},
		{"http://user:secret@h:x", "http_proxy is not a URL of a proxy"},
		{"http://user:secret@unknown.test:1", "proxy unknown.test:1: "},
		{"HTTP://proxy.test:3128/", ""},
		{"192.0.2.1", ""}, // port 80
		{"[2001:db8::1]", ""},
	} {
		_, err := NewForwardProxy(map[string]string{"http_proxy": tc.proxy}, resolveProxy)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if tc.want == "" && got != "" || !strings.HasPrefix(got, tc.want) || strings.Contains(got, "secret") {
			t.Errorf("%s: got %q, want %q", tc.proxy, got, tc.want)
		}
	}
	if f, err := NewForwardProxy(map[string]string{"no_proxy": "x"}, resolveProxy); f != nil || err != nil {
		t.Errorf("no proxy: %v, %v", f, err)
	}
}

// TestRefresh: a proxy that has moved is found where it is now; one that is not found stays where it was.
func TestRefresh(t *testing.T) {
	at, failing := "192.0.2.1:3128", error(nil)
	f, err := NewForwardProxy(map[string]string{"http_proxy": "proxy.test:3128"}, func(string) (netip.AddrPort, error) {
		return netip.MustParseAddrPort(at), failing
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &lb.Host{Name: "db.test:80", Address: netip.MustParseAddrPort("198.51.100.1:80")}
	at = "192.0.2.9:3128"
	if err := f.Refresh(); err != nil || f.For(h).addr.String() != at {
		t.Errorf("got %v, %v", f.For(h), err)
	}
	failing = errors.New("no such name")
	if err := f.Refresh(); err == nil || f.For(h).addr.String() != at {
		t.Errorf("got %v, %v", f.For(h), err)
	}
}

// script is a stream whose peer says what it says, in pieces: an empty one is "not yet".
type script struct {
	event.Stream
	pieces  []string
	end     error
	written strings.Builder
	room    int // bytes that one write takes
}

func (s *script) Read(p []byte) (int, error) {
	switch {
	case len(s.pieces) == 0:
		return 0, s.end
	case s.pieces[0] == "":
		s.pieces = s.pieces[1:]
		return 0, event.ErrAgain
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	if s.room == 0 {
		s.room = 7
		return 0, event.ErrAgain
	}
	n := min(len(p), s.room)
	s.room = 0
	s.written.Write(p[:n])
	return n, nil
}

func TestConnectHandshake(t *testing.T) {
	v := &via{addr: netip.MustParseAddrPort("192.0.2.1:3128"), target: "db.test:80", auth: "Basic x"}
	const request = "CONNECT db.test:80 HTTP/1.1\r\nHost: db.test:80\r\nProxy-Authorization: Basic x\r\n\r\n"
	for name, tc := range map[string]struct {
		pieces []string
		end    error
		want   string // of the error; empty: it succeeds
		kind   lb.OutcomeKind
		rest   string
	}{
		"plain":            {pieces: []string{"HTTP/1.1 200 Connection established\r\n\r\n"}},
		"HTTP/1.0":         {pieces: []string{"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n"}},
		"no reason":        {pieces: []string{"HTTP/1.1 204\r\n\r\n"}},
		"bare LF":          {pieces: []string{"HTTP/1.1 200 OK\nA: b\n\n"}},
		"mixed":            {pieces: []string{"HTTP/1.1 200 OK\r\nA: b\n\r\n"}},
		"byte by byte":     {pieces: strings.Split("HTTP/1.1 200 OK\r\n\r\n", "")},
		"with pauses":      {pieces: []string{"HTTP/1.1 2", "", "00 OK\r\n\r", "", "\n"}},
		"interim":          {pieces: []string{"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"}},
		"server speaks":    {pieces: []string{"HTTP/1.1 200 OK\r\n\r\n220 mail ready\r\n"}, rest: "220 mail ready\r\n"},
		"length ignored":   {pieces: []string{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"}, rest: "hello"},
		"refused":          {pieces: []string{"HTTP/1.1 502 Bad Gateway\r\n\r\n"}, want: `refused CONNECT: "HTTP/1.1 502 Bad Gateway"`, kind: lb.ConnectFailed},
		"forbidden":        {pieces: []string{"HTTP/1.1 403 No\r\n\r\n"}, want: `refused CONNECT: "HTTP/1.1 403 No"`, kind: lb.ConnectFailed},
		"credentials":      {pieces: []string{"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n"}, want: "407 Who", kind: lb.OurFault},
		"another protocol": {pieces: []string{"HTTP/1.1 101 Switching\r\n\r\n"}, want: "refused CONNECT", kind: lb.ConnectFailed},
		"redirect":         {pieces: []string{"HTTP/1.1 302 Found\r\n\r\n"}, want: "refused CONNECT", kind: lb.ConnectFailed},
		"no HTTP":          {pieces: []string{"SSH-2.0-x\r\n\r\n"}, want: "refused CONNECT", kind: lb.ConnectFailed},
		"no number":        {pieces: []string{"HTTP/1.1 2x0 OK\r\n\r\n"}, want: "refused CONNECT", kind: lb.ConnectFailed},
		"long number":      {pieces: []string{"HTTP/1.1 2000 OK\r\n\r\n"}, want: "refused CONNECT", kind: lb.ConnectFailed},
		"closed":           {pieces: []string{"HTTP/1.1 200"}, end: io.EOF, want: "closed the connection instead of answering", kind: lb.ConnectFailed},
		"reset":            {end: syscall.ECONNRESET, want: "connection reset", kind: lb.ConnectFailed},
		"endless":          {pieces: []string{"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", maxConnectReply)}, want: "too long", kind: lb.ConnectFailed},
		"endless interim":  {pieces: []string{strings.Repeat("HTTP/1.1 100 C\r\n\r\n", maxConnectReply/10)}, want: "too long", kind: lb.ConnectFailed},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{pieces: tc.pieces, end: tc.end}
			h := newViaHandshake(v, nil)
			for turn := 0; ; turn++ {
				done, err := h.step(s)
				if !done && err == nil {
					if turn > 100 {
						t.Fatal("it never ends")
					}
					continue
				}
				if s.written.String() != request {
					t.Errorf("asked %q", s.written.String())
				}
				if rest := strings.Join(s.pieces, ""); tc.want == "" && rest != tc.rest {
					t.Errorf("left %q, want %q", rest, tc.rest)
				}
				switch {
				case err == nil && tc.want != "":
					t.Errorf("succeeded, want %q", tc.want)
				case err != nil && (tc.want == "" || !strings.Contains(err.Error(), tc.want) || err.Kind != tc.kind || !err.Unsent || len(err.Error()) > 250):
					t.Errorf("got %v (%v), want %q", err, err.Kind, tc.want)
				}
				return
			}
		})
	}
}

// TestForwardProxyDial: what is no request goes through the proxy too, and hears why not.
func TestForwardProxyDial(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\n\r\nhello":         "",
		"HTTP/1.1 403 Forbidden\r\n\r\n":       `refused CONNECT: "HTTP/1.1 403 Forbidden"`,
		"SSH-2.0-OpenSSH_9.2\r\nhello\r\n\r\n": "refused CONNECT",
	} {
		addr, conns := listen(t)
		f, err := NewForwardProxy(map[string]string{"https_proxy": "http://" + addr.String()}, resolveProxy)
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			c := <-conns
			defer c.Close()
			req, _ := http.ReadRequest(bufio.NewReader(c))
			asked <- req.Method + " " + req.Host
			_, _ = io.WriteString(c, answer)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		c, err := f.Dial(ctx, &lb.Host{Name: "db.test:443", Address: netip.MustParseAddrPort("192.0.2.1:443")})
		if got := <-asked; got != "CONNECT db.test:443" {
			t.Errorf("the proxy was asked for %q", got)
		}
		switch {
		case want == "" && err == nil:
			if b, _ := io.ReadAll(c); string(b) != "hello" {
				t.Errorf("behind the answer came %q", b)
			}
			c.Close()
		case want == "" || err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%q gives %v, want %q", answer, err, want)
		}
		cancel()
	}
}

func FuzzConnectAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\n\r\nrest")
	f.Add("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 407 No\n\n")
	f.Add("HTTP/1.1 2")
	f.Fuzz(func(t *testing.T, answer string) {
		s := &script{pieces: []string{answer}, end: io.EOF}
		if answer == "" {
			s.pieces = nil
		}
		h := newViaHandshake(&via{target: "db.test:80"}, nil)
		for {
			done, err := h.step(s)
			if !done && err == nil {
				continue
			}
			if done != (err == nil) || len(h.in) > maxConnectReply+1 {
				t.Fatalf("%v %v, %d bytes kept", done, err, len(h.in))
			}
			if rest := strings.Join(s.pieces, ""); !strings.HasSuffix(answer, rest) {
				t.Fatalf("left %q of %q", rest, answer)
			}
			return
		}
	})
}
