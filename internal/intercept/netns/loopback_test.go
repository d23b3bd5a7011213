//go:build linux

package netns_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// greeter is a server of the host that speaks first, then gives back what it gets, then says goodbye.
func greeter(t *testing.T, network, address string) (port string) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "host")
				_, _ = io.Copy(c, c)
				fmt.Fprintln(c, "bye")
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// talk connects, and shows the first line, the echo after a half-close, and the end; or the error's name.
const talk = `import socket, sys
def talk(host, port):
    try:
        s = socket.create_connection((host, int(port)), timeout=20)
    except OSError as e:
        print(type(e).__name__, flush=True)
        return
    f = s.makefile()
    first = f.readline().strip()
    s.sendall(b"mine ")
    s.shutdown(socket.SHUT_WR)
    print(first, f.read().strip(), flush=True)
def serve(host, port, word):
    l = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind((host, int(port))); l.listen()
    return l
def once(l, word):
    c, _ = l.accept(); c.sendall(word.encode() + b"\n"); c.shutdown(socket.SHUT_WR); c.recv(99); c.close()
`

func TestLoopback(t *testing.T) {
	need(t)
	host := greeter(t, "tcp4", "127.0.0.1:0")
	closed := freePort(t)
	const own = `
import threading
l = serve("127.0.0.1", sys.argv[1], "own")
t = threading.Thread(target=once, args=(l, "own")); t.start()
talk("127.0.0.1", sys.argv[1])
t.join(); l.close()
talk("127.0.0.1", sys.argv[1])`
	for _, test := range []struct {
		name   string
		cfg    driverConfig
		script string
		port   string
		want   string
		told   int // lines about the host's loopback
	}{
		{"the host's", driverConfig{}, `talk("127.0.0.1", sys.argv[1])`, host, "host mine bye\n", 1},
		{"the host's by name, twice", driverConfig{}, `talk("localhost", sys.argv[1]); talk("127.0.0.1", sys.argv[1])`, host,
			"host mine bye\nhost mine bye\n", 1},
		{"nobody's", driverConfig{}, `talk("127.0.0.1", sys.argv[1]); talk("::1", sys.argv[1])`, closed,
			"ConnectionRefusedError\nConnectionRefusedError\n", 0},
		{"private", driverConfig{Private: true}, `talk("127.0.0.1", sys.argv[1])`, host, "ConnectionRefusedError\n", 0},
		{"COMMAND's own before the host's, and for good", driverConfig{}, own, host, "own \nConnectionRefusedError\n", 0},
		{"private and own", driverConfig{Private: true}, own, host, "own \nConnectionRefusedError\n", 0},
		{"the host's first, then COMMAND's", driverConfig{}, `talk("127.0.0.1", sys.argv[1])` + own, host,
			"host mine bye\nown \nConnectionRefusedError\n", 1},
		{"listened on another address of loopback", driverConfig{}, `
l = serve("127.0.0.7", sys.argv[1], "own"); talk("127.0.0.1", sys.argv[1])`, host, "ConnectionRefusedError\n", 0},
		{"a child's", driverConfig{}, `
import os
r, w = os.pipe()
if os.fork() == 0:
    l = serve("0.0.0.0", sys.argv[1], "own"); os.write(w, b"x"); once(l, "child"); os._exit(0)
os.read(r, 1); talk("127.0.0.1", sys.argv[1])`, host, "child \n", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errs, status := test.cfg.output(t, "python3", "-c", talk+test.script, test.port)
			if out != test.want || status != 0 {
				t.Errorf("got %q (%v, %s), want %q", out, status, errs, test.want)
			}
			if n := strings.Count(errs, "driver: host 127.0.0.1:"+test.port+"\n"); n != test.told {
				t.Errorf("told %d times, want %d: %s", n, test.told, errs)
			}
		})
	}
}

func TestLoopbackIPv6(t *testing.T) {
	need(t)
	if !hasIPv6() {
		t.Skip("NOT TESTED: this kernel has no IPv6")
	}
	port := greeter(t, "tcp6", "[::1]:0")
	out, errs, _ := driverConfig{}.output(t, "python3", "-c", talk+`talk("::1", sys.argv[1])`, port)
	if out != "host mine bye\n" {
		t.Errorf("got %q, %s", out, errs)
	}
}

// freePort is one on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	return port
}

// Much data both ways at once, and many connections at once.
func TestLoopbackBulk(t *testing.T) {
	need(t)
	port := greeter(t, "tcp4", "127.0.0.1:0")
	script := `import hashlib, socket, sys, threading
data = bytes(range(256)) * 40000
def one():
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
    f = s.makefile("rb"); f.readline()
    t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))); t.start()
    got = f.read(); t.join()
    print(hashlib.sha256(got).hexdigest())
ts = [threading.Thread(target=one) for _ in range(8)]
[t.start() for t in ts]; [t.join() for t in ts]`
	out, errs, _ := driverConfig{}.output(t, "python3", "-c", script, port)
	data := make([]byte, 256)
	for i := range data {
		data[i] = byte(i)
	}
	sum := sha256.Sum256(append(bytes.Repeat(data, 40000), "bye\n"...))
	if want := strings.Repeat(fmt.Sprintf("%x\n", sum), 8); out != want {
		t.Errorf("got %q, %s", out, errs)
	}
}

// The host gets in by -p only, to IPv4 or IPv6, and without touching a port of the same number on the host.
func TestPublish(t *testing.T) {
	need(t)
	for _, address := range []string{"127.0.0.1", "::1", ""} {
		if address == "::1" && !hasIPv6() {
			continue
		}
		taken := greeter(t, "tcp4", "127.0.0.1:0")
		report := filepath.Join(t.TempDir(), "report")
		cfg := driverConfig{Publish: []string{"0:" + taken, "127.0.0.1:0:" + freePort(t)}, Report: report}
		cmd := cfg.command(t, "python3", "-c", talk+`
l = serve(sys.argv[1], sys.argv[2], "own")
print("ready", flush=True)
once(l, "inside"); sys.stdin.read()`, address, taken)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			t.Fatal(line, err)
		}
		data, err := os.ReadFile(report)
		if err != nil {
			t.Fatal(err)
		}
		at := strings.Fields(string(data))
		if got, err := get(at[0]); got != "inside\n" || err != nil {
			t.Errorf("serving on %q: got %q, %v", address, got, err)
		}
		// Nobody serves the other port inside: the host's own must not answer for it.
		if got, err := get(at[1]); got != "" || err == nil {
			t.Errorf("a port that nobody serves: got %q, %v", got, err)
		}
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// get gives what a server says before it hangs up.
func get(address string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	data, err := io.ReadAll(c)
	return string(data), err
}
