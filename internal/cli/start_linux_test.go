package cli

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"detour.dev/detour/examples"
)

const insideVariable = "DETOUR_CLI_INSIDE"

// inside runs the test once more in a user and network namespace of its own, where every port is free, and reports
// whether this is that run.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideVariable+"="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// TestFirstRequest: with the walkthrough's configuration the first request is answered soon after the process was
// started, over the forward proxy and the DNS lookups of both endpoints. 100 ms is meant; a machine that does other
// things gets more, so that the test tells of what is wrong and not of what is busy.
func TestFirstRequest(t *testing.T) {
	if !inside(t) {
		return
	}
	dir := t.TempDir()
	for _, name := range []string{"1-service-entry.yaml", "2-destination-rule.yaml"} {
		text, err := examples.FS.ReadFile("dynamodb/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const east, west = "127.0.1.1", "127.0.1.2"
	for addr, name := range map[string]string{east: "dynamodb.us-east-1.amazonaws.com", west: "dynamodb.us-west-1.amazonaws.com"} {
		l, err := net.Listen("tcp", addr+":80")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "healthy: "+name) })}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { s.Close() })
	}
	pc, err := net.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m, name, addr := new(dns.Msg).SetReply(q), q.Question[0].Name, west
		if strings.Contains(name, "us-east-1") {
			addr = east
		}
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(addr)})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { pc.Close() })

	args := []string{"proxy", "-f", dir, "--locality", "us-east1", "--resolver", "127.0.0.53:53", "--access-log=", "--state-file="}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	best := time.Hour
	for range 5 {
		begin := time.Now()
		p := launch(t, dir, "", args...)
		answer := ""
		await(t, "the first request is answered", func() bool {
			req, err := http.NewRequest("GET", "http://127.0.0.1:15080/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "mydb.com"
			r, err := client.Do(req)
			if err != nil {
				return false // it does not listen yet
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			answer = string(b)
			return true
		})
		best = min(best, time.Since(begin))
		if answer != "healthy: dynamodb.us-east-1.amazonaws.com" {
			t.Errorf("the first answer: %q", answer)
		}
		p.signal(syscall.SIGTERM)
		if status := p.wait(); status != 0 {
			t.Errorf("status %d", status)
		}
	}
	t.Logf("the first request was answered %v after the start, at best", best)
	if best > 500*time.Millisecond {
		t.Errorf("the first request was answered %v after the start, at best", best)
	}
}
