//go:build linux

package feature

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// running makes a world as in step 2, for `detour run`.
func running(t *testing.T) *world {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	return w
}

// runCommand is `detour run` of a command, with flags before the configuration's.
func (w *world) runCommand(flags []string, command ...string) *exec.Cmd {
	args := append([]string{"run", "-f", w.dir, "--locality", "us-east1"}, flags...)
	return detour(append(append(args, "--"), command...)...)
}

// want runs a command line to its end and compares status and output; what is on stderr must be errs, or contain it
// where it ends in "…".
func (w *world) want(cmd *exec.Cmd, status int, out, errs string) {
	w.t.Helper()
	p := w.start(cmd)
	if got := p.wait(); got != status {
		w.t.Errorf("%v: status %d, want %d", cmd.Args, got, status)
	}
	if got := p.out(); got != out {
		w.t.Errorf("%v: output %q, want %q", cmd.Args, got, out)
	}
	if part, ok := strings.CutSuffix(errs, "…"); !ok && p.err() != errs || ok && !strings.Contains(p.err(), part) {
		w.t.Errorf("%v: errors %q, want %q", cmd.Args, p.err(), errs)
	}
}

// curlMydb is the walkthrough's command.
var curlMydb = []string{"curl", "-sS", "http://mydb.com"}

// who are the users that run must work for.
var who = map[string]func(*world, *exec.Cmd) *exec.Cmd{"user": (*world).asUser, "root": (*world).asRoot}

// TestRun is the README's command, and what else a program may be.
func TestRun(t *testing.T) {
	for name, as := range who {
		t.Run(name, func(t *testing.T) {
			w := running(t)
			w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
			for _, c := range []struct {
				what    string
				command []string
				out     string
			}{
				{"the walkthrough's", curlMydb, fromEast},
				{"IPv4", append(curlMydb, "-4"), fromEast},
				{"IPv6", append(curlMydb, "-6"), fromEast},
				{"children of children", []string{"sh", "-c", `sh -c "curl -sS http://mydb.com" & wait`}, fromEast},
				{"in its own session", []string{"setsid", "-w", "curl", "-sS", "http://mydb.com"}, fromEast},
				{"an undeclared name", []string{"curl", "-sS", "http://elsewhere.example/"}, fromWest},
				{"a literal address", []string{"curl", "-sS", "http://10.2.0.1/"}, fromWest},
				{"a literal IPv6 address", []string{"curl", "-sS", "http://[fd00:2::1]/"}, fromWest},
				{"a resolver of its own, UDP", tool("lookup", "udp", "elsewhere.example"), "[10.2.0.1]\n"},
				{"a resolver of its own, TCP", tool("lookup", "tcp", "elsewhere.example"), "[10.2.0.1]\n"},
			} {
				t.Run(c.what, func(t *testing.T) {
					w.t = t
					w.want(as(w, w.runCommand(nil, c.command...)), 0, c.out, "")
				})
			}
		})
	}
}

// TestRunFailover loses the near endpoint between two requests of one command.
func TestRunFailover(t *testing.T) {
	w := running(t)
	cmd := w.asUser(w.runCommand(nil, "sh", "-c", `curl -sS http://mydb.com; echo; read line; curl -sS http://mydb.com; echo " $line"`))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := w.start(cmd)
	await(t, "the first answer", func() bool { return p.out() == fromEast+"\n" })
	w.east.ports[80].stop()
	if _, err := io.WriteString(in, "and standard input is the command's\n"); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(); status != 0 || p.out() != fromEast+"\n"+fromWest+" and standard input is the command's\n" {
		t.Errorf("status %d, output %q", status, p.out())
	}
}

// TestRunExitStatus: COMMAND's own, or what env and docker run give.
func TestRunExitStatus(t *testing.T) {
	w := running(t)
	plain := w.scratchFile("not-executable", "#!/bin/sh\n")
	w.want(w.asUser(w.runCommand(nil, "sh", "-c", "exit 7")), 7, "", "")
	w.want(w.asUser(w.runCommand(nil, "no-such-command-anywhere")), 127, "", "detour: run: …")
	w.want(w.asUser(w.runCommand(nil, plain)), 126, "", "detour: run: …")
	w.want(w.asUser(detour("run", "--no-such-flag")), 125, "", "detour: run: …")
	w.want(w.asUser(detour("run", "-f", "-", "--", "true")), 125, "", "standard input…")
	w.want(w.asUser(detour("run", "-f", w.scratchFile("bad.yaml", "kind: [\n"), "--locality", "x", "--", "true")), 125, "", "bad.yaml…")
	p := w.start(w.asRoot(w.runCommand(nil, "sh", "-c", "kill -TERM $$")))
	p.wait()
	if s := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGTERM {
		t.Errorf("a command that SIGTERM ended: %v", p.cmd.ProcessState)
	}
}

// TestRunRegistryOnly refuses what nothing declares: 502 where a declared host speaks HTTP, else a reset.
func TestRunRegistryOnly(t *testing.T) {
	w := running(t)
	w.west.https(443, w.pair("elsewhere.example"))
	w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
	only := []string{"--outbound-policy", "registry-only"}
	w.want(w.asUser(w.runCommand(only, curlMydb...)), 0, fromEast, "")
	w.want(w.asUser(w.runCommand(only, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://elsewhere.example/")), 0, "502", "")
	// A reset that comes before curl has looked at its connection is 7, a later one 35.
	w.want(w.asUser(w.runCommand(only, "sh", "-c", `curl -sS https://elsewhere.example/; case $? in 7|35) echo refused;; esac`)), 0, "refused\n", "curl: …")
	if d := w.deliveries(); len(d) != 1 {
		t.Errorf("delivered: %v", d)
	}
}

// TestRunIPv6Endpoint has an endpoint with an IPv6 address only.
func TestRunIPv6Endpoint(t *testing.T) {
	w := running(t)
	w.dns.Set(eastName, time.Minute, w.east.ip6)
	w.want(w.asUser(w.runCommand(nil, curlMydb...)), 0, fromEast, "")
}

// TestRunTLS passes the application's own TLS on, to the far endpoint when the near one is down.
func TestRunTLS(t *testing.T) {
	w := step7World(t)
	curl := []string{"curl", "-sS", "--cacert", w.caFile(), "https://mydb.com"}
	w.want(w.asUser(w.runCommand(nil, curl...)), 0, fromEast, "")
	w.east.ports[443].stop()
	w.want(w.asUser(w.runCommand(nil, curl...)), 0, fromWest, "endpoint ejected…")
	w.undecrypted(t)
}

// tcpEntry has a TCP port, which only its address tells from others.
const tcpEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: database
spec:
  hosts:
  - mydb.com
  location: MESH_EXTERNAL
  ports:
  - number: 5432
    name: tcp
    protocol: TCP
  resolution: DNS
  endpoints:
  - address: dynamodb.us-east-1.amazonaws.com
    locality: us-east1
  - address: dynamodb.us-west-1.amazonaws.com
    locality: us-west
`

// TestRunTCP: a protocol in which the server speaks first, by allocated address, with failover until connected.
func TestRunTCP(t *testing.T) {
	for _, trouble := range []struct {
		name string
		do   func(w *world, east *listening)
		errs string
	}{
		{"port closed", func(_ *world, east *listening) { east.stop() }, "endpoint ejected…"},
		{"requests lost", func(w *world, _ *listening) { w.east.loseRequests() }, "…"}, // it ends before the verdict, or not
	} {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			east := w.east.banner(5432)
			w.west.banner(5432)
			w.write(entryFile, tcpEntry)
			w.write(ruleFile, w.walkthrough(step2))
			w.want(w.asUser(w.runCommand(nil, tool("tcp", "mydb.com:5432", "hello")...)), 0, "banner "+eastName+"\nhello\n", "")
			trouble.do(w, east)
			w.want(w.asUser(w.runCommand(nil, tool("tcp", "mydb.com:5432", "hello")...)), 0, "banner "+westName+"\nhello\n", trouble.errs)
		})
	}
}

// TestRunUndeclaredBytes: what nothing declares passes untouched, whatever it speaks and on whatever port.
func TestRunUndeclaredBytes(t *testing.T) {
	w := running(t)
	w.west.banner(4000)
	w.want(w.asUser(w.runCommand(nil, tool("tcp", "10.2.0.1:4000", "\x01\xff not HTTP")...)), 0, "banner "+westName+"\n\x01\xff not HTTP\n", "")
}

// TestRunUDP: datagrams other than DNS are refused at once.
func TestRunUDP(t *testing.T) {
	w := running(t)
	begin := time.Now()
	w.want(w.asUser(w.runCommand(nil, tool("udp", "10.2.0.1:4433")...)), 1, "", "tool: write udp…") // what the kernel's reject comes to
	w.want(w.asUser(w.runCommand(nil, tool("udp", "[fd00:2::1]:4433")...)), 1, "", "tool: write udp…")
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("took %v", took)
	}
}

// TestRunLoopback: 127.0.0.1 is what COMMAND serves there, else the host's, unless it is to be private.
func TestRunLoopback(t *testing.T) {
	w := running(t)
	w.app.listen(t, "127.0.0.1:7777", func(c net.Conn) { _, _ = io.WriteString(c, "host") })
	get := tool("tcp", "127.0.0.1:7777")
	w.want(w.asUser(w.runCommand(nil, get...)), 0, "host", "127.0.0.1:7777 is the host's…")
	w.want(w.asUser(w.runCommand([]string{"--loopback", "private"}, get...)), 1, "", "refused…")
	w.want(w.asUser(w.runCommand(nil, "sh", "-c", `"$0" serve 127.0.0.1:7777 & pid=$!
		until "$0" tcp 127.0.0.1:7777 | grep inside; do sleep 0.1; done; kill $pid; wait`, tool()[0])), 0, "listening\ninside\n", "…")
}

// TestRunPublish lets the host in to a port that COMMAND serves.
func TestRunPublish(t *testing.T) {
	w := running(t)
	p := w.start(w.asRoot(w.runCommand([]string{"-p", "7778"}, tool("serve", "127.0.0.1:7778")...)))
	await(t, "COMMAND listens", func() bool { return strings.Contains(p.out(), "listening") })
	c, err := w.dial("127.0.0.1:7778")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); string(b) != "inside" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestRunTwice: two runs at once never meet.
func TestRunTwice(t *testing.T) {
	w := running(t)
	first := w.start(w.asUser(w.runCommand(nil, tool("serve", "127.0.0.1:7779")...)))
	await(t, "the first listens", func() bool { return strings.Contains(first.out(), "listening") })
	second := w.start(w.asUser(w.runCommand(nil, tool("serve", "127.0.0.1:7779")...)))
	await(t, "the second listens on the same port", func() bool { return strings.Contains(second.out(), "listening") })
	w.want(w.asUser(w.runCommand(nil, curlMydb...)), 0, fromEast, "")
}

// forwardProxy is a proxy between the host and the world, as companies have them.
type forwardProxy struct {
	w     *world
	asked atomic.Int64
}

// ServeHTTP knows CONNECT and absolute-form requests.
func (f *forwardProxy) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	to := r.Host
	if r.Method != http.MethodConnect {
		to = r.URL.Host
	}
	if _, _, err := net.SplitHostPort(to); err != nil {
		to += ":80"
	}
	name, port, _ := net.SplitHostPort(to)
	for _, s := range []*site{f.w.east, f.w.west} {
		if name == s.name {
			name = s.ip.String()
		}
	}
	up, err := f.w.dial(net.JoinHostPort(name, port))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	if r.Method != http.MethodConnect {
		tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return up, nil }, DisableKeepAlives: true}
		r.RequestURI = ""
		resp, err := tr.RoundTrip(r)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		rw.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(rw, resp.Body)
		return
	}
	down, _, err := rw.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(up, down)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(down, up)
}

// TestRunInheritedProxy: a proxy in the environment is unset for COMMAND, said so, and used for detour's own dials.
func TestRunInheritedProxy(t *testing.T) {
	w := running(t)
	f := &forwardProxy{w: w}
	var l net.Listener
	w.app.must(t, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:3128")
		return err
	})
	srv := &http.Server{Handler: f}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	cmd := w.runCommand(nil, "sh", "-c", `echo "[$http_proxy$HTTPS_PROXY]"; curl -sS http://mydb.com`)
	cmd.Env = []string{"http_proxy=http://127.0.0.1:3128", "HTTPS_PROXY=http://127.0.0.1:3128"}
	w.want(w.asUser(cmd), 0, "[]\n"+fromEast, "http_proxy, HTTPS_PROXY unset for the command; detour's own connections use the proxy set there…")
	if f.asked.Load() == 0 {
		t.Error("detour did not use the proxy for its own dials")
	}
}

// TestRunViaEnvironment sets the variables instead of capturing.
func TestRunViaEnvironment(t *testing.T) {
	w := running(t)
	w.dns.Set("elsewhere.example", time.Minute, w.west.ip)
	via := []string{"--via", "environment"}
	w.want(w.asUser(w.runCommand(via, curlMydb...)), 0, fromEast, "")
	w.want(w.asUser(w.runCommand(via, "curl", "-sS", "http://elsewhere.example/")), 0, fromWest, "")
	only := append(via, "--outbound-policy", "registry-only")
	w.want(w.asUser(w.runCommand(only, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://elsewhere.example/")), 0, "502", "")
	w.want(w.asUser(w.runCommand(only, "curl", "-sS", "https://elsewhere.example/")), 56, "", "502…")
}

// TestRunVerbose has a line for each request.
func TestRunVerbose(t *testing.T) {
	w := running(t)
	w.east.ports[80].stop()
	w.want(w.asUser(w.runCommand([]string{"-v"}, curlMydb...)), 0, fromWest, fmt.Sprint(netip.AddrPortFrom(w.west.ip, 80))+"…")
}

// TestRunNoLocality says that nothing is near.
func TestRunNoLocality(t *testing.T) {
	w := running(t)
	p := w.start(w.asUser(detour("run", "-f", w.dir, "--", "curl", "-sS", "http://mydb.com")))
	if p.wait() != 0 || !strings.HasPrefix(p.out(), "healthy: ") || strings.Count(p.err(), "\n") != 1 {
		t.Errorf("%q, %q; want an answer and one line", p.out(), p.err())
	}
}
