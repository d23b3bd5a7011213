package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"

	"golang.org/x/net/http/httpproxy"

	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
)

// ForwardProxy is the HTTP proxy that detour's own connections must take: what http_proxy, https_proxy and no_proxy said
// when `run` took them out of COMMAND's environment. Connections go through it with CONNECT (RFC 9110 §9.3.6). A nil
// ForwardProxy means that there is none.
type ForwardProxy struct {
	decide  func(*url.URL) (*url.URL, error)
	resolve func(hostport string) (netip.AddrPort, error)
	names   []string // the proxies' HOST:PORT
	addrs   atomic.Pointer[map[string]netip.AddrPort]
}

// NewForwardProxy reads the inherited variables, by their lower-case names. resolve gives a proxy's address; it may block,
// and is called here and in Refresh only. The result is nil where no proxy is set. Errors never show a password.
func NewForwardProxy(env map[string]string, resolve func(hostport string) (netip.AddrPort, error)) (*ForwardProxy, error) {
	cfg := httpproxy.Config{HTTPProxy: env["http_proxy"], HTTPSProxy: env["https_proxy"], NoProxy: env["no_proxy"]}
	f := &ForwardProxy{decide: cfg.ProxyFunc(), resolve: resolve}
	for _, variable := range []string{"http_proxy", "https_proxy"} {
		s := env[variable]
		if s == "" {
			continue
		}
		if !strings.Contains(s, "://") {
			s = "http://" + s
		}
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Hostname() == "":
			return nil, fmt.Errorf("%s is not a URL of a proxy", variable)
		case u.Scheme != "http":
			return nil, fmt.Errorf("%s names a proxy of the kind %s://; only http:// can be used", variable, u.Scheme)
		}
		f.names = append(f.names, proxyAddress(u))
	}
	if len(f.names) == 0 {
		return nil, nil
	}
	return f, f.Refresh()
}

// Refresh looks the proxies' addresses up again: this host may be in another network now. What can't be found keeps the
// address that it had. It may block.
func (f *ForwardProxy) Refresh() error {
	if f == nil {
		return nil
	}
	old, addrs := f.addrs.Load(), map[string]netip.AddrPort{}
	var failed error
	for _, name := range f.names {
		addr, err := f.resolve(name)
		if err != nil {
			failed = fmt.Errorf("proxy %s: %w", name, err)
			if old != nil {
				addrs[name] = (*old)[name]
			}
			continue
		}
		addrs[name] = addr
	}
	f.addrs.Store(&addrs)
	return failed
}

func proxyAddress(u *url.URL) string {
	if u.Port() == "" {
		return strings.TrimSuffix(u.Host, ":") + ":80"
	}
	return u.Host
}

// via is the way to one endpoint.
type via struct {
	addr   netip.AddrPort
	target string // HOST:PORT for CONNECT
	auth   string // value of Proxy-Authorization, or empty
}

// For says which way a connection to the endpoint takes, nil for the direct one. The proxy is given the endpoint's
// configured name, as an application would have given it. no_proxy is compared with the name and with the address, which
// detour knows where an application that asks a proxy does not. Loopback and link-local addresses mean this host and its
// own network, so no other machine can lead there.
func (f *ForwardProxy) For(h *lb.Host) *via {
	to := h.Target()
	if f == nil || !to.IsValid() || to.Addr().IsLoopback() || to.Addr().IsLinkLocalUnicast() {
		return nil
	}
	scheme := "http"
	if to.Port() == 443 {
		scheme = "https"
	}
	target, address := h.Name, to.String()
	if !isAuthority(target) {
		target = address
	}
	u, err := f.decide(&url.URL{Scheme: scheme, Host: target})
	if err != nil || u == nil {
		return nil
	}
	if target != address {
		if byAddr, err := f.decide(&url.URL{Scheme: scheme, Host: address}); err == nil && byAddr == nil {
			return nil
		}
	}
	v := &via{addr: (*f.addrs.Load())[proxyAddress(u)], target: target}
	if u.User != nil {
		v.auth = basicAuth(u.User)
	}
	return v
}

// Dial makes a connection to the endpoint for something that is no request, on the way that requests take. It blocks until ctx
// ends, and belongs on no loop. The connection has ctx's deadline.
func (f *ForwardProxy) Dial(ctx context.Context, h *lb.Host) (net.Conn, error) {
	var dialer net.Dialer
	v := f.For(h)
	if v == nil {
		return dialer.DialContext(ctx, "tcp", h.String())
	}
	c, err := dialer.DialContext(ctx, "tcp", v.addr.String())
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	if _, failed := newViaHandshake(v, h).step(c); failed != nil {
		c.Close()
		return nil, failed.Cause
	}
	return c, nil
}

// isAuthority says whether a text can stand as the target of a request without changing what the request says.
func isAuthority(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// viaHandshake is one CONNECT.
type viaHandshake struct {
	proxy netip.AddrPort
	out   []byte
	in    []byte // the current answer's head so far
	read  int    // bytes of all answers
}

// maxConnectReply bounds the heads of the proxy's answers to CONNECT, interim ones included.
const maxConnectReply = 16 << 10

func newViaHandshake(v *via, _ *lb.Host) *viaHandshake {
	req := "CONNECT " + v.target + " HTTP/1.1\r\nHost: " + v.target + "\r\n"
	if v.auth != "" {
		req += "Proxy-Authorization: " + v.auth + "\r\n"
	}
	return &viaHandshake{proxy: v.addr, out: []byte(req + "\r\n")}
}

// step goes on as far as the socket lets it. It reads byte by byte up to the end of the head, since what follows belongs
// to whoever uses the connection.
func (v *viaHandshake) step(s io.ReadWriter) (done bool, failed *proxyerr.Error) {
	for len(v.out) > 0 {
		n, err := s.Write(v.out)
		if err == event.ErrAgain {
			return false, nil
		}
		if err != nil {
			return false, v.refused(err)
		}
		v.out = v.out[n:]
	}
	for {
		var b [1]byte
		switch _, err := s.Read(b[:]); {
		case err == event.ErrAgain:
			return false, nil
		case err == io.EOF:
			return false, v.refused(errors.New("closed the connection instead of answering CONNECT"))
		case err != nil:
			return false, v.refused(err)
		}
		v.in = append(v.in, b[0])
		if v.read++; v.read > maxConnectReply {
			return false, v.refused(errors.New("answer to CONNECT too long"))
		}
		if !v.headEnds() {
			continue
		}
		code := connectStatus(v.in)
		switch {
		case code >= 200 && code <= 299:
			return true, nil
		case code >= 100 && code <= 199 && code != 101: // interim
			v.in = v.in[:0]
		default:
			return false, v.answered(code)
		}
	}
}

// headEnds says whether an empty line has been read. A bare LF ends a line too (RFC 9112 §2.2).
func (v *viaHandshake) headEnds() bool {
	in := string(v.in[max(0, len(v.in)-3):])
	return strings.HasSuffix(in, "\n\r\n") || strings.HasSuffix(in, "\n\n")
}

// connectStatus gives the status of an answer, 0 if it has none.
func connectStatus(head []byte) int {
	line := statusLine(head)
	rest, ok := strings.CutPrefix(line, "HTTP/1.")
	if !ok || len(rest) < 5 || rest[1] != ' ' || len(rest) > 5 && rest[5] != ' ' {
		return 0
	}
	code := 0
	for _, c := range []byte(rest[2:5]) {
		if c < '0' || c > '9' {
			return 0
		}
		code = code*10 + int(c-'0')
	}
	return code
}

func statusLine(head []byte) string {
	line, _, _ := strings.Cut(string(head), "\n")
	return strings.TrimSuffix(line, "\r")
}

// answered judges a refusal. That the credentials are wrong says nothing about the endpoint.
func (v *viaHandshake) answered(code int) *proxyerr.Error {
	const enough = 100 // bytes, for a log line
	line := statusLine(v.in)
	e := v.refused(fmt.Errorf("refused CONNECT: %q", line[:min(len(line), enough)]))
	if code == 407 {
		e.Kind, e.Source = lb.OurFault, proxyerr.Local
	}
	return e
}

// refused is the endpoint's failure: the proxy is there and could not, or would not, connect to it.
func (v *viaHandshake) refused(err error) *proxyerr.Error {
	return proxyerr.Connect(fmt.Errorf("forward proxy %s: %w", v.proxy, err), false)
}

// unreachable is this host's failure: the proxy itself does not answer, whatever the endpoint (guarantee E4).
func (v *viaHandshake) unreachable(err error) *proxyerr.Error {
	e := v.refused(err)
	e.Kind, e.Source = lb.OurFault, proxyerr.Local
	return e
}

func basicAuth(u *url.Userinfo) string {
	pass, _ := u.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+pass))
}
