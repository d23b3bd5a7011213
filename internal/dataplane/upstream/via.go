package upstream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
)

// ForwardProxy is the HTTP proxy that detour's own connections must take: what http_proxy, https_proxy and no_proxy said
// when `run` took them out of COMMAND's environment. Connections go through it with CONNECT.
type ForwardProxy struct {
	decide func(*url.URL) (*url.URL, error)
	// Resolve gives the proxy's address; it must not block. The lookup is done when the proxy is set up.
	addrs map[string]netip.AddrPort
}

// via is the way to one endpoint.
type via struct {
	addr   netip.AddrPort
	target string
	auth   string
}

// NewForwardProxy reads the inherited variables. resolve is called once for each proxy named; it may block. It gives nil
// where no proxy is set.
func NewForwardProxy(env map[string]string, resolve func(hostport string) (netip.AddrPort, error)) (*ForwardProxy, error) {
	cfg := httpproxy.Config{HTTPProxy: env["http_proxy"], HTTPSProxy: env["https_proxy"], NoProxy: env["no_proxy"]}
	if cfg.HTTPProxy == "" && cfg.HTTPSProxy == "" {
		return nil, nil
	}
	f := &ForwardProxy{decide: cfg.ProxyFunc(), addrs: map[string]netip.AddrPort{}}
	for _, s := range []string{cfg.HTTPProxy, cfg.HTTPSProxy} {
		if s == "" {
			continue
		}
		if !strings.Contains(s, "://") {
			s = "http://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" {
			return nil, fmt.Errorf("proxy %q is not an http:// URL", s)
		}
		hp := proxyAddress(u)
		addr, err := resolve(hp)
		if err != nil {
			return nil, fmt.Errorf("proxy %s: %w", hp, err)
		}
		f.addrs[hp] = addr
	}
	return f, nil
}

func proxyAddress(u *url.URL) string {
	if u.Port() == "" {
		return u.Host + ":80"
	}
	return u.Host
}

// For says which way a connection to the endpoint takes, nil for the direct one.
func (f *ForwardProxy) For(h *lb.Host) *via {
	if f == nil || !h.Address.IsValid() || h.Address.Addr().IsLoopback() {
		return nil
	}
	scheme := "http"
	if h.Address.Port() == 443 {
		scheme = "https"
	}
	name := h.Hostname
	if name == "" {
		name = h.Address.Addr().String()
		if h.Address.Addr().Is6() {
			name = "[" + name + "]"
		}
	}
	target := fmt.Sprintf("%s:%d", name, h.Address.Port())
	u, err := f.decide(&url.URL{Scheme: scheme, Host: target})
	if err != nil || u == nil {
		return nil
	}
	v := &via{addr: f.addrs[proxyAddress(u)], target: target}
	if u.User != nil {
		v.auth = basicAuth(u.User)
	}
	return v
}

// viaHandshake is one CONNECT.
type viaHandshake struct {
	out []byte
	in  []byte
}

// maxConnectReply bounds the proxy's answer to CONNECT.
const maxConnectReply = 16 << 10

func newViaHandshake(v *via, _ *lb.Host) *viaHandshake {
	req := "CONNECT " + v.target + " HTTP/1.1\r\nHost: " + v.target + "\r\n"
	if v.auth != "" {
		req += "Proxy-Authorization: " + v.auth + "\r\n"
	}
	return &viaHandshake{out: []byte(req + "\r\n")}
}

// step goes on as far as the socket lets it. It reads byte by byte up to the end of the head, since what follows belongs
// to whoever uses the connection.
func (v *viaHandshake) step(s *event.Socket) (done bool, err error) {
	for len(v.out) > 0 {
		n, err := s.Write(v.out)
		if err == event.ErrAgain {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		v.out = v.out[n:]
	}
	for {
		var b [1]byte
		if _, err := s.Read(b[:]); err == event.ErrAgain {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("forward proxy: %w", err)
		}
		v.in = append(v.in, b[0])
		if len(v.in) > maxConnectReply {
			return false, errors.New("forward proxy: answer to CONNECT too long")
		}
		if strings.HasSuffix(string(v.in[max(0, len(v.in)-4):]), "\r\n\r\n") {
			return true, v.status()
		}
	}
}

func (v *viaHandshake) status() error {
	line, _, _ := strings.Cut(string(v.in), "\r\n")
	f := strings.SplitN(line, " ", 3)
	if len(f) < 2 || !strings.HasPrefix(f[0], "HTTP/1.") || len(f[1]) != 3 || f[1][0] != '2' {
		return fmt.Errorf("forward proxy refused CONNECT: %q", line)
	}
	return nil
}

func basicAuth(u *url.Userinfo) string {
	pass, _ := u.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+pass))
}
