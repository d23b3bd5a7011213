//go:build linux

package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// started gives a session within this process, or skips where capture_test.go does.
func started(t *testing.T, opt Options) *Session {
	t.Helper()
	opt.Env = []string{"PATH=/usr/bin:/bin"}
	s, err := Start(context.Background(), opt)
	if errors.Is(err, ErrUnavailable) {
		t.Skipf("NOT TESTED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeSockets(s *Session) {
	for _, fd := range append(s.Capture, s.Queue) {
		unix.Close(fd)
	}
}

// A session leaves nothing: no goroutine, no descriptor, no process.
func TestNothingLeft(t *testing.T) {
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	round := func() {
		s := started(t, Options{Command: []string{"true"}})
		if err := s.Go(); err != nil {
			t.Fatal(err)
		}
		if status := s.Wait(); status != (Status{}) {
			t.Errorf("%+v", status)
		}
		if err := s.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v", err)
		}
		s.Close()
		s.Close()
		closeSockets(s)
	}
	round() // what the runtime opens once and keeps
	before := descriptors()
	ignore := goleak.IgnoreCurrent()
	round()
	goleak.VerifyNone(t, ignore)
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a process is left: %v", err)
	}
}

// A session closed before Go never runs COMMAND.
func TestCloseBeforeGo(t *testing.T) {
	file := t.TempDir() + "/ran"
	s := started(t, Options{Command: []string{"touch", file}})
	s.Close()
	closeSockets(s)
	if _, err := os.Stat(file); err == nil {
		t.Error("COMMAND ran")
	}
}

func TestListeningAndDialInside(t *testing.T) {
	s := started(t, Options{Command: []string{"cat"}})
	defer closeSockets(s)
	defer s.Close()
	if ports, err := s.Listening(); err != nil || len(ports) != 0 {
		t.Errorf("detour's own ports show: %v, %v", ports, err)
	}
	if _, err := s.DialInside(t.Context(), netip.MustParseAddrPort("127.0.0.1:1")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dialled a port on which nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.DialInside(ctx, netip.MustParseAddrPort("127.0.0.1:1")); err == nil {
		t.Error("dialled after the end of the context")
	}
}

func TestStartRefuses(t *testing.T) {
	if _, err := Start(context.Background(), Options{}); err == nil {
		t.Error("no command, no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s, err := Start(ctx, Options{Command: []string{"true"}}); err == nil {
		s.Close()
		closeSockets(s)
		t.Error("started after the end of the context")
	}
}

func TestResolverConfig(t *testing.T) {
	const head = "# made by detour run; queries to any name server are answered by detour\nnameserver 127.0.0.1\n"
	for _, test := range []struct{ in, want string }{
		{"", head},
		{"nameserver fe80::1%eth0\nnameserver 10.0.0.1\n", head},
		{"search a.test b.test\nnameserver 10.0.0.1\noptions ndots:5 edns0", head + "search a.test b.test\noptions ndots:5 edns0\n"},
		{"domain\ta.test\n# search x\n; options y\nsortlist 1.2.3.4\n", head + "domain\ta.test\n"},
	} {
		if got := resolverConfig(test.in); got != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

func TestSearchPath(t *testing.T) {
	if got := searchPath([]string{"A=1", "PATH=/x:/y"}); got != "/x:/y" {
		t.Error(got)
	}
	if got := searchPath(nil); got != "/bin:/usr/bin" {
		t.Error(got)
	}
}

func FuzzAddPorts(f *testing.F) {
	one := make([]byte, 32)
	binary.NativeEndian.PutUint32(one, 32)
	binary.NativeEndian.PutUint16(one[4:], sockDiagByFamily)
	binary.BigEndian.PutUint16(one[20:], 8080)
	done := append([]byte(nil), one...)
	binary.NativeEndian.PutUint16(done[4:], unix.NLMSG_DONE)
	f.Add(one)
	f.Add(append(one, done...))
	f.Fuzz(func(t *testing.T, b []byte) {
		ports := map[uint16]bool{}
		_, _ = addPorts(b, ports)
		if len(ports) > len(b)/unix.NLMSG_HDRLEN {
			t.Errorf("%d ports in %d bytes", len(ports), len(b))
		}
	})
}
