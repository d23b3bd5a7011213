//go:build linux

package netns_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"detour.dev/detour/internal/intercept/netns"
)

// web is an upstream on the host's loopback that tells which Host it was asked for.
func web(t *testing.T) (address string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "host %s", r.Host)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

const resolve = `import socket
print(sorted({a[4][0] for a in socket.getaddrinfo("mydb.com", 80)}))`

const connect = `import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
print(s.makefile().read(), end="")`

func TestCapture(t *testing.T) {
	need(t)
	upstream := web(t)
	cfg := driverConfig{Upstreams: map[string]string{
		testIPv4 + ":80": upstream, "[" + testIPv6 + "]:80": upstream,
	}}
	for _, test := range []struct {
		name    string
		command []string
		want    string
	}{
		{"curl by name", []string{"curl", "-sS", "http://mydb.com"}, "host mydb.com"},
		{"curl IPv6", []string{"curl", "-6sS", "http://mydb.com"}, "host mydb.com"},
		{"child of a child", []string{"sh", "-c", "sh -c 'curl -sS http://a.test; true'; true"}, "host a.test"},
		{"in the background", []string{"sh", "-c", "(curl -sS http://b.test) & wait"}, "host b.test"},
		{"C library", []string{"python3", "-c", resolve}, "['2001:db8::7', '203.0.113.7']\n"},
		{"literal IPv4", []string{"python3", "-c", connect, "198.51.100.9", "4711"}, "captured 198.51.100.9:4711\n"},
		{"literal IPv6", []string{"python3", "-c", connect, "2001:2::9", "4711"}, "captured [2001:2::9]:4711\n"},
		{"IPv4 in an IPv6 socket", []string{"python3", "-c", connect, "::ffff:198.51.100.9", "25"}, "captured 198.51.100.9:25\n"},
		{"port of the capture itself", []string{"python3", "-c", connect, "198.51.100.9", "4"}, "captured 198.51.100.9:4\n"},
		{"static, by name", tool(t, "get", "tcp", "c.test:4711"), "captured 203.0.113.7:4711\n"},
		{"static, IPv6", tool(t, "get", "tcp6", "c.test:4711"), "captured [2001:db8::7]:4711\n"},
		{"own resolver, UDP", tool(t, "dns", "udp", "198.51.100.53:53"), "udp\n"},
		{"own resolver, TCP", tool(t, "dns", "tcp", "198.51.100.53:53"), "tcp\n"},
		{"own resolver, UDP over IPv6", tool(t, "dns", "udp", "[2001:2::53]:53"), "udp\n"},
		{"own resolver, TCP over IPv6", tool(t, "dns", "tcp", "[2001:2::53]:53"), "tcp\n"},
		{"resolver on loopback", tool(t, "dns", "udp", "127.0.0.53:53"), "udp\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(test.name, "IPv6") && !hasIPv6() {
				t.Skip("NOT TESTED: this kernel has no IPv6")
			}
			if strings.Contains(test.name, "curl IPv6") || strings.Contains(test.name, "static, IPv6") {
				if !routesIPv6() {
					t.Skip("NOT TESTED: no route to the IPv6 Internet, so none inside either")
				}
			}
			out, errs, status := cfg.output(t, test.command...)
			if out != test.want || status.ExitStatus() != 0 {
				t.Errorf("got %q, status %v, stderr %q; want %q", out, status, errs, test.want)
			}
		})
	}
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/lo")
	return err == nil
}

// routesIPv6 asks the routing table only.
func routesIPv6() bool {
	c, err := net.Dial("udp6", "[2001:500:2::c]:53")
	if err == nil {
		c.Close()
	}
	return err == nil
}

const refused = `import socket, sys
def attempt(kind, to):
    s = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, kind)
    s.settimeout(30)
    try:
        s.connect(to)
        s.send(b"x")
        s.recv(1)
        return "answered"
    except OSError as e:
        return type(e).__name__
for to in [("198.51.100.9", 443), ("2001:2::9", 443), ("239.1.2.3", 5353)]:
    print(attempt(socket.SOCK_DGRAM, to))
for to in [("127.0.0.1", 4), ("127.0.0.1", 6), ("127.0.0.1", 8), ("::1", 4), ("127.0.0.1", 9), ("192.0.0.8", 9)]:
    print(attempt(socket.SOCK_STREAM, to))
# Loopback stays inside, also for UDP.
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", 0))
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.sendto(b"inside", a.getsockname())
print(a.recv(9).decode())
# A program may look for its own address, and reach itself there.
b.connect(("198.51.100.1", 80))
l = socket.socket(); l.bind(("", 0)); l.listen()
c = socket.create_connection((b.getsockname()[0], l.getsockname()[1]))
d, _ = l.accept(); d.send(b"myself"); print(c.recv(9).decode())`

func TestRefusedAtOnce(t *testing.T) {
	need(t)
	if !hasIPv6() {
		t.Skip("NOT TESTED: this kernel has no IPv6")
	}
	out, errs, status := driverConfig{}.output(t, "python3", "-c", refused)
	want := strings.Repeat("PermissionError\n", 3) + strings.Repeat("ConnectionRefusedError\n", 6) + "inside\nmyself\n"
	if out != want || status != 0 {
		t.Errorf("got %q (%v, %q), want %q", out, status, errs, want)
	}
}

// COMMAND is who it would have been, with no power over its cage.
func TestIdentity(t *testing.T) {
	need(t)
	out, errs, _ := driverConfig{}.output(t, "sh", "-c", "id -u; id -g; pwd; grep CapEff /proc/self/status; env | sort; cat /etc/resolv.conf")
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("%d\n%d\n%s\n", os.Getuid(), os.Getgid(), dir), "\nnameserver 127.0.0.1\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q lacks %q (%s)", out, want, errs)
		}
	}
	if os.Getuid() != 0 && !strings.Contains(out, "CapEff:\t0000000000000000\n") {
		t.Errorf("COMMAND has capabilities: %s", out)
	}
	if strings.Contains(out, "DETOUR") {
		t.Errorf("detour shows in COMMAND's environment: %s", out)
	}
}

// What the host has is as before: its resolv.conf, its mounts, its links.
func TestHostUntouched(t *testing.T) {
	need(t)
	look := func() string {
		var b strings.Builder
		for _, f := range []string{"/etc/resolv.conf", "/proc/self/mountinfo", "/proc/self/net/dev_snmp6", "/proc/net/fib_trie"} {
			data, err := os.ReadFile(f)
			if err == nil {
				b.Write(data)
			}
		}
		return b.String()
	}
	before := look()
	cmd := driverConfig{}.command(t, "cat")
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
	fmt.Fprintln(in, "running")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "running\n" {
		t.Fatal(line, err)
	}
	if during := look(); during != before {
		t.Errorf("the host changed:\n%s\nbefore:\n%s", during, before)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Two runs at once each have their own: the same names, the same ports, other answers.
func TestTwoRuns(t *testing.T) {
	need(t)
	type run struct {
		in  io.WriteCloser
		out *bufio.Reader
		end func() error
	}
	script := `import socket, sys
l = socket.socket(); l.bind(("127.0.0.1", 8080)); l.listen()
print("serving", flush=True); sys.stdin.readline()
s = socket.create_connection(("mydb.com", 80)); print(s.makefile().read(), end="")`
	var runs []run
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
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
				fmt.Fprintln(c, l.Addr())
				c.Close()
			}
		}()
		cmd := driverConfig{Upstreams: map[string]string{testIPv4 + ":80": l.Addr().String()}}.command(t, "python3", "-c", script)
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
		runs = append(runs, run{in, bufio.NewReader(out), cmd.Wait})
	}
	seen := map[string]bool{}
	for _, r := range runs {
		if line, err := r.out.ReadString('\n'); line != "serving\n" {
			t.Fatal(line, err)
		}
	}
	for _, r := range runs {
		r.in.Close()
		line, err := r.out.ReadString('\n')
		if err != nil {
			t.Fatal(line, err)
		}
		seen[line] = true
		if err := r.end(); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 2 {
		t.Errorf("the runs met: %v", seen)
	}
}

// A process that outlives COMMAND does not keep the caller waiting.
func TestLeftBehind(t *testing.T) {
	need(t)
	_, errs, status := driverConfig{}.output(t, "sh", "-c", "sleep 3 >/dev/null 2>&1 </dev/null & exit 4")
	if status.ExitStatus() != 4 {
		t.Errorf("status %v, %q", status, errs)
	}
}

// Where the machine has no more network namespaces to give, the caller learns that only the environment is left.
func TestUnavailable(t *testing.T) {
	need(t)
	cmd := driverConfig{}.command(t, "true")
	// A user namespace may set limits for itself.
	inner := exec.Command("sh", append([]string{"-c",
		`echo 0 > /proc/sys/user/max_net_namespaces && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)...)
	inner.Env = cmd.Env
	inner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := inner.CombinedOutput()
	want := netns.ErrUnavailable.Error()
	if inner.ProcessState.ExitCode() != 125 || !strings.Contains(string(out), want) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("got %q, %v; want one line with %q", out, err, want)
	}
}
