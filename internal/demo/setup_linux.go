package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func linkUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, a := range []netip.Addr{eastAddr, westAddr} {
		n := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: n}); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	return nil
}

// mountResolver makes the demo's DNS server the system's, in this mount namespace. Without the file the C library and
// Go ask 127.0.0.1 anyway.
func mountResolver(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private: %w", err)
	}
	path, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	file := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver "+dnsAddr+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// drop makes all packets to the address vanish; the zero address ends that.
func drop(to netip.Addr) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "drop"}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if to.IsValid() {
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		const destination = 16 // offset in the IPv4 header
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: to.AsSlice()},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// Run plays the steps in a process of its own namespaces, and gives its exit status; status 128+N if it was ended by
// ctx or by a signal. Nothing is left behind when it returns.
func Run(ctx context.Context, o Options) (status int, err error) {
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return 1, err
		}
	}
	work, err := os.MkdirTemp("", "detour-demo-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(work)
	in, err := json.Marshal(inside{o, work})
	if err != nil {
		return 1, err
	}
	// The kernel kills the inside when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd, err := startInside(ctx, o, Variable+"="+string(in))
	if err != nil {
		return 1, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// startInside starts this program again in new namespaces. Where there is no user namespace to be had, root does
// without.
func startInside(ctx context.Context, o Options, env string) (*exec.Cmd, error) {
	const spaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID
	var first error
	for _, flags := range []uintptr{spaces | unix.CLONE_NEWUSER, spaces} {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", "demo") // the end of process 1 is the end of all
		cmd.Args[0] = "detour"
		cmd.Env = append(os.Environ(), env)
		cmd.Stdout, cmd.Stderr = cmp.Or(o.Stdout, os.Stdout), cmp.Or(o.Stderr, os.Stderr)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		if flags&unix.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("%w: %w\n%s", ErrUnavailable, first, hint())
}
