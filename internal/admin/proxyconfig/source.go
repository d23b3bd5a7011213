// Package proxyconfig owns what "detour proxy-config" reads and prints: the admin API of a running detour, or of any Envoy,
// or a dump of either in a file; and istioctl's tables.
package proxyconfig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Limits for what an admin API or a file may send.
const (
	maxDump = 1 << 30
	timeout = 30 * time.Second
)

// Source is where a dump comes from.
type Source struct {
	name string
	data []byte // of a file; nil: ask client
	base string
	http *http.Client
}

// FromFile reads a dump that somebody saved: /clusters?format=json, or /config_dump. name is for messages.
func FromFile(name string, r io.Reader) (*Source, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDump))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(strings.TrimSpace(string(b))) == 0 {
		return nil, fmt.Errorf("%s: is empty", name)
	}
	return &Source{name: name, data: b}, nil
}

// FromAdmin asks an admin API at HOST:PORT, http://HOST:PORT or unix:PATH.
func FromAdmin(addr string) (*Source, error) {
	s := &Source{name: addr}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	tr := &http.Transport{DisableKeepAlives: true, Proxy: nil}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		s.base = "http://localhost"
	} else {
		host := strings.TrimSuffix(strings.TrimPrefix(addr, "http://"), "/")
		if _, _, err := net.SplitHostPort(host); err != nil {
			return nil, fmt.Errorf("admin address %q: must be HOST:PORT or unix:PATH", addr)
		}
		tr.DialContext = dialer.DialContext
		s.base = "http://" + host
	}
	s.http = &http.Client{Transport: tr, Timeout: timeout}
	return s, nil
}

// Name says where the dump comes from.
func (s *Source) Name() string { return s.name }

var errNotFound = errors.New("not found")

// get fetches one path; a file gives all it has for every path.
func (s *Source) get(ctx context.Context, path string) ([]byte, error) {
	if s.data != nil {
		return s.data, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("admin address %s: %w", s.name, err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("admin API on %s: %w", s.name, innermost(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDump))
	if err != nil {
		return nil, fmt.Errorf("admin API on %s: %w", s.name, innermost(err))
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return b, nil
	case http.StatusNotFound:
		return nil, fmt.Errorf("admin API on %s: %s: %w", s.name, path, errNotFound)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return nil, fmt.Errorf("admin API on %s: %s answers %d: %s", s.name, path, resp.StatusCode, clean(line))
}

func innermost(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// Refused tells whether nobody listens at the address that was asked.
func Refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// clean makes a word of somebody else's fit for a terminal and for a column.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, s)
}
