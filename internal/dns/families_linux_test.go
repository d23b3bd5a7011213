package dns

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const inNamespace = "DETOUR_TEST_FAMILIES"

// TestHostFamilies runs itself in a network namespace of its own and gives it routes, one family at a time.
func TestHostFamilies(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestHostFamilies$", "-test.v")
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
	want := func(v4, v6 bool) {
		t.Helper()
		if g4, g6 := HostFamilies(); g4 != v4 || g6 != v6 {
			t.Fatalf("HostFamilies() = %v, %v, want %v, %v", g4, g6, v4, v6)
		}
	}
	want(false, false)
	r := New(Options{})
	if v4, v6 := r.Families(); !v4 || !v6 {
		t.Fatal("a machine without a network must not be told to drop a family")
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	want(false, false)
	route := func(all net.IPNet) {
		t.Helper()
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &all, Type: syscall.RTN_LOCAL,
			Scope: netlink.SCOPE_HOST, Table: syscall.RT_TABLE_MAIN}); err != nil {
			t.Fatal(err)
		}
	}
	route(net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)})
	want(true, false)
	if v4, v6 := r.Families(); !v4 || !v6 {
		t.Fatal("families changed without Reload")
	}
	r.Reload()
	if v4, v6 := r.Families(); !v4 || v6 {
		t.Fatal("Reload did not ask the routing table")
	}
	route(net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)})
	want(true, true)
}
