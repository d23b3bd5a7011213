//go:build linux

package netns_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"detour.dev/detour/internal/intercept"
	"detour.dev/detour/internal/intercept/netns"
)

// Variables that make this test binary something else than the suite.
const (
	driverVariable = "DETOUR_TEST_DRIVER" // a stand-in for `detour run`; the value is a driverConfig
	userVariable   = "DETOUR_TEST_USER"   // the suite again, as an ordinary user
)

// TestMain runs the suite as it was called and, when that was by root, once more as an ordinary user.
func TestMain(m *testing.M) {
	netns.MaybeChild()
	if config := os.Getenv(driverVariable); config != "" {
		os.Unsetenv(driverVariable)
		drive(config)
	}
	if tool := os.Getenv(toolVariable); tool != "" {
		os.Exit(runTool(tool, os.Args[1:]))
	}
	status := m.Run()
	fuzzing := slices.ContainsFunc(os.Args[1:], func(a string) bool { return strings.HasPrefix(a, "-test.fuzz") })
	if status == 0 && os.Geteuid() == 0 && os.Getenv(userVariable) == "" && !fuzzing {
		status = runAsUser()
	}
	os.Exit(status)
}

// runAsUser needs a copy of the binary that another user can read.
func runAsUser() int {
	dir, err := os.MkdirTemp("", "detour-netns")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "netns.test")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(bin, data, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.Contains(a, "coverprofile") && !strings.Contains(a, "testlogfile") && !strings.Contains(a, "gocoverdir") {
			args = append(args, a)
		}
	}
	fmt.Println("=== as an ordinary user")
	cmd := exec.Command(bin, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), userVariable+"=1", "HOME="+dir, "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 20001, Gid: 20001}}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "as an ordinary user:", err)
		return 1
	}
	return 0
}

// driverConfig is how a test wants its run.
type driverConfig struct {
	Plain, Private bool
	// Upstreams maps destinations to where the stand-in proxy goes instead.
	Upstreams map[string]string
	Publish   []string
	// Report is a file that gets the addresses of the publications, one a line, before COMMAND starts.
	Report string
}

const (
	testIPv4 = "203.0.113.7"
	testIPv6 = "2001:db8::7"
)

// drive is `detour run` with a proxy that knows two addresses and resolves every name to them.
func drive(config string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(125)
	}
	var cfg driverConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		fail(err)
	}
	s, err := netns.Start(context.Background(), netns.Options{
		Command: os.Args[1:], Env: os.Environ(), Plain: cfg.Plain, PrivateLoopback: cfg.Private,
	})
	if err != nil {
		fail(err)
	}
	serve(s, cfg)
	if s.Queue >= 0 {
		intercept.NewLoopback(intercept.LoopbackConfig{
			Queue: s.Queue, Listeners: s.Loopback, Listening: s.Listening,
			FellThrough: func(to netip.AddrPort) { fmt.Fprintf(os.Stderr, "driver: host %s\n", to) },
		})
	}
	var report strings.Builder
	for _, p := range cfg.Publish {
		pub, err := intercept.ParsePublication(p)
		if err != nil {
			fail(err)
		}
		at, err := pub.Publish(s.DialInside)
		if err != nil {
			fail(err)
		}
		fmt.Fprintln(&report, at.Addr())
	}
	if cfg.Report != "" {
		if err := os.WriteFile(cfg.Report, []byte(report.String()), 0o644); err != nil {
			fail(err)
		}
	}
	if err := s.Go(); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(err.(*netns.ExecError).Status())
	}
	netns.ReleaseStreams()
	status := s.Wait()
	s.Close()
	netns.DieAs(status)
}

// command is the driver with COMMAND, both in a small environment of their own.
func (c driverConfig) command(t *testing.T, command ...string) *exec.Cmd {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, command...)
	cmd.Env = []string{"PATH=" + testPath, "LANG=C", "GORACE=atexit_sleep_ms=0", driverVariable + "=" + string(config)}
	return cmd
}

const testPath = "/usr/local/bin:/usr/bin:/bin"

// output runs COMMAND to its end.
func (c driverConfig) output(t *testing.T, command ...string) (stdout, stderr string, status syscall.WaitStatus) {
	t.Helper()
	cmd := c.command(t, command...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// tool is the command line of this binary as a program of its own.
func tool(t *testing.T, name string, args ...string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"env", toolVariable + "=" + name, self}, args...)
}

// need skips, loudly, where the kernel or its keeper refuses the namespaces; anything else that is missing fails.
func need(t *testing.T) {
	t.Helper()
	cmd := exec.Command("true")
	id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	gid := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: id, GidMappings: gid,
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	}
	if err := cmd.Run(); err != nil {
		t.Skipf("NOT TESTED: this machine refuses namespaces to uid %d: %v", os.Geteuid(), err)
	}
	for _, program := range []string{"curl", "python3"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is needed: %v", program, err)
		}
	}
}

func serve(s *netns.Session, cfg driverConfig) {
	for _, fd := range s.Capture {
		go accept(fd, cfg)
	}
	for _, pc := range s.DNSPacket {
		go (&dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(answer)}).ActivateAndServe()
	}
	for _, l := range s.DNSStream {
		go (&dns.Server{Listener: l, Handler: dns.HandlerFunc(answer)}).ActivateAndServe()
	}
}

func answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	h := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: 1, Rrtype: q.Question[0].Qtype}
	switch h.Rrtype {
	case dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: h, A: net.ParseIP(testIPv4)})
	case dns.TypeAAAA:
		m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: net.ParseIP(testIPv6)})
	case dns.TypeTXT:
		m.Answer = append(m.Answer, &dns.TXT{Hdr: h, Txt: []string{w.LocalAddr().Network()}})
	}
	_ = w.WriteMsg(m)
}

func accept(fd int, cfg driverConfig) {
	f := os.NewFile(uintptr(fd), "capture")
	l, err := net.FileListener(f)
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go proxy(c.(*net.TCPConn), cfg)
	}
}

func proxy(c *net.TCPConn, cfg driverConfig) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	var to netip.AddrPort
	_ = raw.Control(func(fd uintptr) { to, err = intercept.OriginalDst(int(fd)) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		return
	}
	up, ok := cfg.Upstreams[to.String()]
	if !ok {
		fmt.Fprintf(c, "captured %s\n", to)
		return
	}
	u, err := net.DialTimeout("tcp", up, 5*time.Second)
	if err != nil {
		_ = c.SetLinger(0)
		return
	}
	defer u.Close()
	go func() {
		_, _ = io.Copy(u, c)
		_ = u.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, u)
}
