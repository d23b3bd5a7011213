// Package netns owns the process side of `detour run`: it starts COMMAND in a user, network and mount namespace of its
// own (or, where that can't be had, as it is), leads its TCP and DNS to sockets that the caller gets, and makes detour's
// process stand in for COMMAND: signals, job control, terminal and exit status pass as if COMMAND had been called itself.
//
// The process that the user started forks a child, which makes the namespaces' insides, hands the sockets over and then
// becomes COMMAND, so that COMMAND's parent is detour and nothing stands between. Beside it lives a helper: it makes
// sockets inside (a socket belongs to the namespace it was made in), and being in the same process group it
// can tell a signal sent to the group, which COMMAND has got already, from one sent to detour alone.
package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// ErrUnavailable is in the chain of Start's error when this machine does not let the caller have what capturing needs.
// COMMAND has not been started then.
var ErrUnavailable = errors.New("no network namespace of its own for COMMAND")

// ExecError says that COMMAND could not be started.
type ExecError struct {
	Command string
	Errno   syscall.Errno
}

func (e *ExecError) Error() string { return fmt.Sprintf("%s: %v", e.Command, e.Errno) }

func (e *ExecError) Unwrap() error { return e.Errno }

// Status is the exit status that env(1) would give: 127 for a command not found, 126 for all else.
func (e *ExecError) Status() int {
	if e.Errno == syscall.ENOENT {
		return 127
	}
	return 126
}

// Options say what to start. Command must not be empty.
type Options struct {
	Command []string
	// Env is COMMAND's environment, each "name=value"; PATH in it is where COMMAND is looked for.
	Env []string
	// Files are COMMAND's standard streams; the caller's own where nil.
	Files [3]*os.File
	// Plain starts COMMAND without namespaces: the session has no sockets then.
	Plain bool
	// PrivateLoopback leaves all connections to loopback inside; the session has no Loopback and no Queue then.
	PrivateLoopback bool
}

// Sockets live inside COMMAND's network namespace. Whoever takes one owns it.
type Sockets struct {
	// Capture are listening sockets (file descriptors, non-blocking) that get every TCP connection of COMMAND that
	// is neither DNS nor to loopback. The kernel knows where each was meant to go: intercept.OriginalDst.
	Capture []int
	// DNSPacket and DNSStream get every DNS query, whatever server it was sent to.
	DNSPacket []net.PacketConn
	DNSStream []net.Listener
	// Loopback get the connections to loopback that Queue's reader marked nft.MarkHost.
	Loopback []net.Listener
	// Queue is a socket of nft.OpenQueue, or -1 where the kernel has none: all loopback stays inside then.
	Queue int
}

// Status is how COMMAND ended: by Signal if that is not 0, else with Code.
type Status struct {
	Code   int
	Signal syscall.Signal
}

// Exit is the number a shell shows for it: 128+N for signal N.
func (s Status) Exit() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

// ReleaseStreams puts /dev/null in the place of this process's own standard input and output: once COMMAND has them, a
// reader of its output must see the end when COMMAND closes it, not when detour ends.
func ReleaseStreams() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	_ = dup(int(null.Fd()), 0)
	_ = dup(int(null.Fd()), 1)
}
