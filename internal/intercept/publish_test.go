package intercept_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/intercept"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParsePublication(t *testing.T) {
	for _, test := range []struct {
		in, listen string
		port       uint16
	}{
		{"8080", "127.0.0.1:8080", 8080},
		{"0.0.0.0:8080", "0.0.0.0:8080", 8080},
		{"localhost:8080", "localhost:8080", 8080},
		{"9090:8080", "127.0.0.1:9090", 8080},
		{"0:8080", "127.0.0.1:0", 8080},
		{"0.0.0.0:9090:8080", "0.0.0.0:9090", 8080},
		{"[::1]:8080", "[::1]:8080", 8080},
		{"[::]:9090:8080", "[::]:9090", 8080},
		{"", "", 0},
		{":8080", "", 0},
		{"0", "", 0},
		{"8080:0", "", 0},
		{"65536", "", 0},
		{"a:b", "", 0},
		{"::1:8080", "", 0},
		{"[::1:8080", "", 0},
		{"[1.2.3.4]:80", "", 0},
		{":1:2", "", 0},
		{"a:b:1", "", 0},
		{"1:2:3", "1:2", 3},
	} {
		got, err := intercept.ParsePublication(test.in)
		if (err != nil) != (test.listen == "") || err == nil && (got.Listen != test.listen || got.Port != test.port) {
			t.Errorf("%q: got %+v, %v; want %s to %d", test.in, got, err, test.listen, test.port)
		}
	}
}

func FuzzParsePublication(f *testing.F) {
	for _, s := range []string{"8080", "[::1]:1:2", "a:1", ":::", "[]:1", "1:65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := intercept.ParsePublication(s)
		if err != nil {
			return
		}
		if host, port, err := net.SplitHostPort(p.Listen); err != nil || host == "" || port == "" || p.Port == 0 {
			t.Errorf("%q: %+v, %v", s, p, err)
		}
	})
}

// Close ends connections that are being relayed and those that wait for COMMAND.
func TestPublisherClose(t *testing.T) {
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	pub := intercept.Publication{Listen: "127.0.0.1:0", Port: 1}
	at, err := pub.Publish(func(context.Context, netip.AddrPort) (net.Conn, error) {
		return net.Dial("tcp", inside.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", at.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := inside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := at.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection lives on: %v", err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("the connection inside lives on")
	}
}

// A stream that breaks off must not look complete on the other side.
func TestPublisherReset(t *testing.T) {
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	at, err := intercept.Publication{Listen: "127.0.0.1:0", Port: 1}.Publish(
		func(context.Context, netip.AddrPort) (net.Conn, error) {
			return net.Dial("tcp", inside.Addr().String())
		})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	c, err := net.Dial("tcp", at.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := inside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_ = s.(*net.TCPConn).SetLinger(0)
	s.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v; want a reset", n, err)
	}
}
