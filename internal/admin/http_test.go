package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
)

func TestChangesOnlyByPost(t *testing.T) {
	s := envoyState(t)
	h := handler(s)
	for _, p := range []string{"/logging", "/drain_listeners", "/quitquitquit"} {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
			if status, body := ask(h, method, p+"?level=debug"); status != 405 {
				t.Errorf("%s %s: %d %s", method, p, status, body)
			}
		}
	}
	if s.drained != 0 || s.quit != 0 {
		t.Fatal("something was changed")
	}
	for p, n := range map[string]*int{"/drain_listeners": &s.drained, "/quitquitquit": &s.quit} {
		if status, body := ask(h, "POST", p); status != 200 || body != "OK\n" || *n != 1 {
			t.Errorf("POST %s: %d %q, called %d times", p, status, body, *n)
		}
	}
	if status, _ := ask(h, "DELETE", "/clusters"); status != 405 {
		t.Errorf("DELETE /clusters: %d", status)
	}
}

// A page in a browser can make it send a POST here, but not without an Origin or Sec-Fetch-Site that tells.
func TestCrossOriginPost(t *testing.T) {
	s := envoyState(t)
	h := handler(s)
	for name, edit := range map[string]func(*http.Request){
		"Origin":         func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"Sec-Fetch-Site": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		if status, _ := ask(h, "POST", "/quitquitquit", edit); status != 403 || s.quit != 0 {
			t.Errorf("%s: status %d, quit %d", name, status, s.quit)
		}
	}
}

func TestHost(t *testing.T) {
	h := handler(envoyState(t))
	tcp := &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 15000}
	for _, tt := range []struct {
		host  string
		local net.Addr
		ok    bool
	}{
		{"127.0.0.1:15000", tcp, true},
		{"127.8.8.8", tcp, true},
		{"localhost", tcp, true},
		{"LocalHost.:15000", tcp, true},
		{"a.localhost:1", tcp, true},
		{"[::1]:15000", tcp, true},
		{"[::1]", tcp, true},
		{"::1", tcp, true},
		{"[::ffff:127.0.0.1]:80", tcp, true},
		{"10.1.2.3:15000", tcp, true}, // where the connection came in
		{"10.1.2.4:15000", tcp, false},
		{"10.1.2.3:15000", nil, false},
		{"", tcp, false},
		{"evil.example", tcp, false},
		{"localhost.evil.example:15000", tcp, false},
		{"127.0.0.1.evil.example", tcp, false},
		{"evil.example:127.0.0.1", tcp, false},
		{"anything", &net.UnixAddr{Net: "unix", Name: "/x"}, true},
	} {
		status, body := ask(h, "GET", "/ready", func(r *http.Request) {
			r.Host = tt.host
			if tt.local != nil {
				*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, tt.local))
			}
		})
		if (status == 200) != tt.ok || !tt.ok && status != 403 {
			t.Errorf("Host %q on %v: %d %s", tt.host, tt.local, status, body)
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"127.0.0.1:1", "[::1]:1", "localhost", "a:b:c", "[", "]:", "[::1", "::ffff:127.0.0.1", "evil"} {
		f.Add(s)
	}
	h := handler(&fakeState{})
	f.Fuzz(func(t *testing.T, host string) {
		status, _ := ask(h, "GET", "/ready", func(r *http.Request) { r.Host = host })
		if status == 403 {
			return
		}
		name := strings.TrimSuffix(strings.ToLower(hostOnly(host)), ".")
		ip, err := netip.ParseAddr(name)
		if !(err == nil && ip.Unmap().IsLoopback()) && name != "localhost" && !strings.HasSuffix(name, ".localhost") {
			t.Errorf("Host %q was let in", host)
		}
	})
}

func TestReady(t *testing.T) {
	s := envoyState(t)
	h := handler(s)
	for state, want := range map[adminv3.ServerInfo_State]int{
		adminv3.ServerInfo_LIVE:             200,
		adminv3.ServerInfo_PRE_INITIALIZING: 503,
		adminv3.ServerInfo_INITIALIZING:     503,
		adminv3.ServerInfo_DRAINING:         503,
	} {
		s.state = state
		if status, body := ask(h, "GET", "/ready"); status != want || body != state.String()+"\n" {
			t.Errorf("%v: %d %q", state, status, body)
		}
	}
}

func TestLogging(t *testing.T) {
	level := &slog.LevelVar{}
	h := NewHandler(envoyState(t), Options{Level: level})
	for _, tt := range []struct {
		query, shows string
		status       int
		level        slog.Level
	}{
		{"", "detour: info", 200, slog.LevelInfo},
		{"?level=debug", "detour: debug", 200, slog.LevelDebug},
		{"?level=warn", "detour: warning", 200, slog.LevelWarn},
		{"?level=bogus", "error: unknown logger level", 400, slog.LevelWarn},
		{"?paths=detour:error", "detour: error", 200, slog.LevelError},
		{"?level=off", "detour: off", 200, 100},
		{"?level=trace", "detour: trace", 200, -8},
	} {
		status, body := ask(h, "POST", "/logging"+tt.query)
		if status != tt.status || level.Level() != tt.level || !strings.Contains(body, tt.shows) {
			t.Errorf("%s: %d %q, level %v", tt.query, status, body, level.Level())
		}
	}
}

func TestPagesAndErrors(t *testing.T) {
	h := handler(envoyState(t))
	for _, tt := range []struct {
		path   string
		status int
		word   string
	}{
		{"/", 200, `<a href="/clusters">`},
		{"/help", 200, "  /quitquitquit (POST): exit"},
		{"/nope", 404, "invalid path. admin commands are:"},
		{"/certs", 200, `"certificates": []`},
		{"/stats", 200, "server.uptime: "},
		{"/stats?format=json", 200, `{"stats":[`},
		{"/stats?format=prometheus", 200, "# TYPE envoy_server_uptime gauge"},
		{"/stats/prometheus?filter=server.live", 200, "envoy_server_live 0"},
		{"/stats?filter=%5B", 400, "Invalid re2 regex: missing closing ]"},
		{"/stats?format=nope", 400, "usage: /stats?format=(html|active-html|json|prometheus|text)"},
		{"/detour/endpoints", 200, `"endpoints": []`},
	} {
		status, body := ask(h, "GET", tt.path)
		if status != tt.status || !strings.Contains(body, tt.word) {
			t.Errorf("%s: %d %.300s", tt.path, status, body)
		}
	}
	if status, body := ask(handler(&fakeState{}), "GET", "/config_dump?include_eds"); status != 200 {
		t.Errorf("before the first snapshot: %d %s", status, body)
	}
}

// serve starts the API on addr and gives a client for it.
func serve(t *testing.T, addr string) (l net.Listener, get func(path string) (int, string)) {
	t.Helper()
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, handler(envoyState(t))) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, l.Addr().Network(), l.Addr().String())
	}}
	t.Cleanup(func() {
		cancel()
		tr.CloseIdleConnections()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l, func(path string) (int, string) {
		resp, err := (&http.Client{Transport: tr}).Get("http://localhost" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
}

func TestServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	for _, addr := range []string{"127.0.0.1:0", "unix:" + path} {
		_, get := serve(t, addr)
		if status, body := get("/ready"); status != 200 || body != "LIVE\n" {
			t.Errorf("%s: %d %q", addr, status, body)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if _, err := Listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("second listener on one socket: %v", err)
	}
}

// On Linux the socket's mode is right from the moment it exists, whatever the umask.
func TestSocketModeAtBind(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere only Chmod after binding sets it")
	}
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := (&net.ListenConfig{Control: ownerOnly}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	leaveStale(t, path)
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stayed: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("over a file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone")
	}
}

// leaveStale makes a socket as a killed process leaves it.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestSocketDir(t *testing.T) {
	run := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", run)
	dir, err := SocketDir()
	if err != nil || dir != filepath.Join(run, "detour") {
		t.Fatalf("%q, %v", dir, err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
	l, err := ListenPrivate()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	leaveStale(t, filepath.Join(dir, "999999.sock"))
	for _, other := range []string{"x.sock", "07.sock", "12.txt", "-3.sock"} {
		if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Sockets(dir)
	want := Socket{PID: os.Getpid(), Path: filepath.Join(dir, strconv.Itoa(os.Getpid())+".sock")}
	if err != nil || len(all) != 1 || all[0] != want {
		t.Errorf("%v, %v, want %v alone", all, err, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "999999.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the stale socket stayed")
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := SocketDir(); err == nil || !strings.Contains(err.Error(), "must be 0700") {
		t.Errorf("open to all: %v", err)
	}
}

func TestSocketDirFallback(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("XDG_RUNTIME_DIR", "")
	want := filepath.Join(tmp, "detour-"+strconv.Itoa(os.Getuid()))
	if dir, err := SocketDir(); err != nil || dir != want {
		t.Errorf("%q, %v, want %q", dir, err, want)
	}
	if err := os.Remove(want); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tmp, want); err != nil {
		t.Fatal(err)
	}
	if _, err := SocketDir(); err == nil {
		t.Error("a link to elsewhere was taken")
	}
}
