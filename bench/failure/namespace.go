//go:build linux

package failure

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Verbs that the program must give to Process.
const (
	runVerb      = "failure-run"
	endpointVerb = "failure-endpoint"
)

// Process serves the package's own processes: a program that calls Measure calls it first, and ends if it says so.
func Process(args []string) (mine bool) {
	var err error
	switch {
	case len(args) == 1 && args[0] == runVerb:
		err = inside()
	case len(args) == 4 && args[0] == endpointVerb:
		err = serve(args[1], args[2], args[3])
	default:
		return false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// Measure runs one measurement in a network namespace of its own: load and endpoints on the given CPUs.
func Measure(ctx context.Context, cpus string, c Config) (Result, error) {
	var r Result
	in, err := json.Marshal(c)
	if err != nil {
		return r, err
	}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, "taskset", "-c", cpus, self, runVerb)
	// A garbage collection would look like a slow proxy.
	cmd.Env = append(os.Environ(), "GOGC=off")
	cmd.Stdin = bytes.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("%w: %q", err, out.Bytes())
	}
	return r, nil
}

// loopbackUp makes a new namespace's loopback usable.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// drop lets TCP packets to or from a port of this namespace vanish on their arrival.
func drop(f Fault, port uint16) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	offset := uint32(0) // of the source port in a TCP header
	if f == DropTo {
		offset = 2
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "failure"})
	chain := c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}
