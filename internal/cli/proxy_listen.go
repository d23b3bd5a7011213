package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"detour.dev/detour/internal/admin"
	"detour.dev/detour/internal/app"
)

// bind opens all listeners, and gives what is said of them in one line. On an error those that are open stay in cfg.
func (f *proxyFlags) bind(cfg *app.Config) (said []any, err error) {
	for _, l := range []struct {
		flag, addr string
		fds        *[]int
	}{{"listen", f.listen, &cfg.Redirected}, {"http-proxy", f.httpProxy, &cfg.HTTPProxy}} {
		if l.addr == "" {
			continue
		}
		fd, at, err := listenFD(l.addr)
		if err != nil {
			return nil, bindError(l.flag, l.addr, err)
		}
		*l.fds = append(*l.fds, fd)
		said = append(said, strings.ReplaceAll(l.flag, "-", "_"), at)
	}
	if f.dns != "" {
		at, err := bindDNS(cfg, f.dns)
		if err != nil {
			return nil, bindError("dns", f.dns, err)
		}
		said = append(said, "dns", at)
	}
	if f.admin != "" {
		l, err := admin.Listen(f.admin)
		if err != nil {
			return nil, bindError("admin", f.admin, err)
		}
		cfg.Admin = append(cfg.Admin, l)
		said = append(said, "admin", adminName(l))
		if at, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !at.Addr().Unmap().IsLoopback() {
			cfg.Log.Warn("other machines may reach the admin API, which can stop this process", "admin", at)
		}
	}
	if l, err := admin.ListenPrivate(); err == nil {
		cfg.Admin = append(cfg.Admin, l)
	} else {
		cfg.Log.Debug("detour ps will not show this process", "error", err)
	}
	return said, nil
}

// adminName is a listener's address as --admin takes it.
func adminName(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}

// bindError names the flag and the address. What is no address at all is wrong usage.
func bindError(flag, addr string, err error) error {
	var errno syscall.Errno
	var notAddress *net.AddrError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("--%s %s: address already in use ('detour ps' lists your detours; port 0 takes a free one)", flag, addr)
	case errors.As(err, &errno):
		return fmt.Errorf("--%s %s: %w", flag, addr, errno)
	case errors.As(err, &notAddress):
		return usagef("--%s %q: %s", flag, addr, notAddress.Err)
	}
	return fmt.Errorf("--%s %s: %w", flag, addr, err)
}

// bindDNS listens on one address for UDP and TCP; with port 0 both get the same.
func bindDNS(cfg *app.Config, addr string) (string, error) {
	const tries = 10 // for a port that is free for both
	_, port, _ := net.SplitHostPort(addr)
	for try := 1; ; try++ {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return "", err
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			cfg.DNSPacket = append(cfg.DNSPacket, pc)
			cfg.DNSStream = append(cfg.DNSStream, ln)
			return pc.LocalAddr().String(), nil
		}
		_ = pc.Close()
		if port != "0" || try == tries || !errors.Is(err, syscall.EADDRINUSE) {
			return "", err
		}
	}
}

// listenFD gives a listening, non-blocking descriptor of its own.
func listenFD(addr string) (fd int, at string, err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return -1, "", err
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, "", err
	}
	if cerr := raw.Control(func(p uintptr) { fd, err = dupCloexec(int(p)) }); cerr != nil {
		return -1, "", cerr
	}
	return fd, l.Addr().String(), err
}
