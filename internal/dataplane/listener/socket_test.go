//go:build unix

package listener

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, o Own) *Socket {
	t.Helper()
	s, err := Open(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.FD) })
	return s
}

// TestOpenPath: a socket that a process left behind is taken over, and nothing else.
func TestOpenPath(t *testing.T) {
	dir := t.TempDir()
	own := Own{Path: filepath.Join(dir, "s")}
	first, err := Open(own, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("unix", own.Path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if _, err := Open(own, nil); err != unix.EADDRINUSE {
		t.Errorf("somebody listens: %v", err)
	}
	unix.Close(first.FD) // without Remove, as when killed
	second := open(t, own)
	first.Remove() // not its own any more
	if c, err := net.Dial("unix", own.Path); err != nil {
		t.Errorf("taken over: %v", err)
	} else {
		c.Close()
	}
	second.Remove()
	if _, err := os.Lstat(own.Path); !os.IsNotExist(err) {
		t.Errorf("removed: %v", err)
	}
	second.Remove()
	if err := os.WriteFile(own.Path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(own, nil); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if _, err := Open(Own{Path: filepath.Join(dir, "none", "s")}, nil); err != unix.ENOENT {
		t.Errorf("no directory: %v", err)
	}
	if _, err := Open(Own{Path: "/" + strings.Repeat("x", 120)}, nil); err == nil || !strings.Contains(err.Error(), "107 bytes") {
		t.Errorf("long: %v", err)
	}
}

// TestOpenMode: the file has the mode that Pipe.mode asks for, else what the umask leaves.
func TestOpenMode(t *testing.T) {
	own := Own{Path: filepath.Join(t.TempDir(), "s"), Mode: 0o660}
	open(t, own)
	if st, err := os.Lstat(own.Path); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

func TestOpenAddress(t *testing.T) {
	s := open(t, Own{Addr: netip.MustParseAddrPort("127.0.0.1:0")})
	sa, err := unix.Getsockname(s.FD)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	if c, err := net.Dial("tcp", at.String()); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if _, err := Open(Own{Addr: at}, nil); err != unix.EADDRINUSE {
		t.Errorf("taken: %v", err)
	}
	if _, err := Open(Own{Addr: at}, func(int) (int, error) { return -1, unix.EMFILE }); err != unix.EMFILE {
		t.Errorf("no socket: %v", err)
	}
	if got := (Own{Path: "@x"}).String() + " " + (Own{Addr: at}).String(); got != "unix://@x "+at.String() {
		t.Error(got)
	}
}
