package netns

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const helperControl = 3

// Requests to the helper: one byte each, with one byte of argument.
const (
	askSocket = 's' // argument: address family; the answer is one byte, 0 with a TCP socket or an errno
	askSignal = 'g' // argument: signal; the answer is one byte, 1 if the helper has got it too
)

// The helper stays on the process's first thread, which the kernel prefers for signals: one that arrived before a
// question has been handled when the question is read.
func init() {
	if os.Args[0] == helperName {
		runtime.LockOSThread()
	}
}

// helperMain serves until detour closes its end. No signal ends or stops it.
func helperMain() {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, relayed()...)
	unix.CloseOnExec(helperControl)
	closeFrom(helperControl + 1)
	got := map[os.Signal]time.Time{}
	buf := make([]byte, 2)
	for {
		n, err := retryRead(helperControl, buf)
		if err != nil || n != 2 {
			os.Exit(0)
		}
		switch buf[0] {
		case askSocket:
			err = answerSocket(int(buf[1]))
		case askSignal:
			answer := []byte{0}
			if hasArrived(syscall.Signal(buf[1]), signals, got) {
				answer[0] = 1
			}
			err = unix.Sendmsg(helperControl, answer, nil, nil, unix.MSG_NOSIGNAL)
		}
		if err != nil {
			os.Exit(0)
		}
	}
}

const (
	// handOver is what the Go runtime may take from a signal's handler to its channel.
	handOver = 20 * time.Millisecond
	// groupTime is how far apart detour and its helper may see one signal to the group.
	groupTime = 50 * time.Millisecond
)

// hasArrived tells whether the signal came just now; each is counted once.
func hasArrived(sig os.Signal, signals <-chan os.Signal, got map[os.Signal]time.Time) bool {
	timeout := time.NewTimer(handOver)
	defer timeout.Stop()
	for {
		select {
		case s := <-signals:
			got[s] = time.Now()
			continue
		default:
		}
		if at, ok := got[sig]; ok {
			delete(got, sig)
			if time.Since(at) < groupTime {
				return true
			}
		}
		select {
		case s := <-signals:
			got[s] = time.Now()
		case <-timeout.C:
			return false
		}
	}
}

// closeFrom lets go of what COMMAND inherits beyond the standard streams: a pipe's reader must not wait for the helper.
// What the Go runtime has opened for itself is marked close-on-exec, what was inherited is not.
func closeFrom(first int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd := 0
		for _, c := range e.Name() {
			fd = fd*10 + int(c-'0')
		}
		if fd < first {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

func answerSocket(family int) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		errno, _ := err.(unix.Errno)
		return unix.Sendmsg(helperControl, []byte{byte(errno)}, nil, nil, unix.MSG_NOSIGNAL)
	}
	defer unix.Close(fd)
	return unix.Sendmsg(helperControl, []byte{0}, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
}
