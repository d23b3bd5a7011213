package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// maxConns bounds the connections that one admin listener serves at once.
const maxConns = 128

// Listen binds an admin address: HOST:PORT, or unix:PATH for a socket that only its owner may use (0600). A socket that a
// dead process left behind is replaced; one that somebody answers on is an error. The socket file goes when the listener
// closes.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("admin address %s: %w", addr, reason(err))
		}
		return l, nil
	}
	if err := clearStale(path); err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	c := net.ListenConfig{Control: ownerOnly}
	l, err := c.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, reason(err))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin socket %s: %w", path, reason(err))
	}
	return l, nil
}

// ownerOnly gives a socket the mode 0600 before it is bound: on Linux the file gets the socket's mode, so it is never open
// to others. Other systems refuse; Chmod does it there, after binding.
func ownerOnly(_, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); e != nil {
		return e
	}
	if errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}

// reason takes the innermost error, which says what is wrong without repeating the address.
func reason(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// clearStale removes a socket that nobody answers on.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return reason(err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("exists and is no socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("another process listens on it")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return reason(err)
	}
	return os.Remove(path)
}

// Serve answers on l until ctx ends; it closes l and returns once every answer under way is given, or 2 s after ctx
// ended. It may be called for several listeners of one handler.
func Serve(ctx context.Context, l net.Listener, h *Handler) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(h.opt.Log.Handler(), slog.LevelWarn),
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if s.Shutdown(limit) != nil {
			s.Close()
		}
	})
	err := s.Serve(netutil.LimitListener(l, maxConns))
	if stop() { // ctx has not ended: the listener failed
		return fmt.Errorf("admin API on %s: %w", l.Addr(), err)
	}
	<-done
	return nil
}
