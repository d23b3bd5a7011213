package discovery

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

const inNamespace = "DETOUR_TEST_NETWATCH"

// TestWatchNetworkInNamespace runs itself in a network namespace of its own and changes addresses and routes there.
func TestWatchNetworkInNamespace(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestWatchNetworkInNamespace$", "-test.v")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if err != nil && strings.Contains(err.Error(), "operation not permitted") {
			t.Skip("no user namespaces here: ", err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- WatchNetwork(ctx, func() { calls <- struct{}{} }) }()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	steps := []struct {
		name string
		do   func() error
	}{
		{"lo up", func() error { return netlink.LinkSetUp(lo) }},
		{"address", func() error {
			a, err := netlink.ParseAddr("192.0.2.1/32")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(lo, a)
		}},
		{"default route", func() error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: all, Scope: netlink.SCOPE_LINK})
		}},
	}
	waitSubscribed(t)
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		select {
		case <-calls:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: no call; state %q", s.name, networkState())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// waitSubscribed waits until this process has its routing socket, by the kernel's list.
func waitSubscribed(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		b, err := os.ReadFile("/proc/net/netlink")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "00000550") {
			return
		}
	}
	t.Fatal("never subscribed")
}
