package netns

import (
	"encoding/binary"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const helperControl = 3

// Requests to the helper, one byte each, with one byte of argument.
const (
	askSocket  = 's' // argument: address family; the answer is one byte and a TCP socket, or an errno
	askSignals = 'g' // the answer is the set of signals that arrived since the last time, 8 bytes
)

// helperMain serves until detour closes its end. It was started with all signals blocked, so that none ends or stops
// it and each stays pending until asked for.
func helperMain() {
	runtime.LockOSThread()
	unix.CloseOnExec(helperControl)
	closeFrom(helperControl + 1)
	buf := make([]byte, 2)
	for {
		n, err := retryRead(helperControl, buf)
		if err != nil || n != 2 {
			os.Exit(0)
		}
		switch buf[0] {
		case askSocket:
			err = answerSocket(int(buf[1]))
		case askSignals:
			err = unix.Sendmsg(helperControl, binary.NativeEndian.AppendUint64(nil, takeSignals()), nil, nil, unix.MSG_NOSIGNAL)
		}
		if err != nil {
			os.Exit(0)
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

// takeSignals gives the pending signals, bit N-1 for signal N, and clears them.
func takeSignals() uint64 {
	var got uint64
	all := ^uint64(0)
	var now unix.Timespec
	for {
		sig, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&all)), 0,
			uintptr(unsafe.Pointer(&now)), unsafe.Sizeof(all), 0, 0)
		if errno != 0 {
			return got
		}
		got |= 1 << (sig - 1)
	}
}
