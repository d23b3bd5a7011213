package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/intercept/nft"
)

// helper is the process inside; see the package comment. One question at a time.
type helper struct {
	pid  int
	mu   sync.Mutex
	file *os.File
}

// answerTime is how long the helper may take for an answer before it counts as gone.
const answerTime = 2 * time.Second

func (h *helper) ask(question, argument byte, answer []byte) (n int, fds []int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.file.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, nil, err
	}
	if _, err := h.file.Write([]byte{question, argument}); err != nil {
		return 0, nil, err
	}
	raw, err := h.file.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	rights := make([]byte, unix.CmsgSpace(4))
	var rn int
	var inner error
	err = raw.Read(func(fd uintptr) bool {
		n, rn, _, _, inner = unix.Recvmsg(int(fd), answer, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return inner != unix.EAGAIN && inner != unix.EINTR
	})
	if err = errors.Join(err, inner); err != nil {
		h.file.Close() // a late answer must not be taken for that to the next question
		return 0, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) == 0 {
		return n, nil, err
	}
	fds, err = unix.ParseUnixRights(&messages[0])
	return n, fds, err
}

// hasGot asks whether a signal that this process got was sent to the whole process group.
func (h *helper) hasGot(sig syscall.Signal) (has, ok bool) {
	buf := make([]byte, 1)
	n, _, err := h.ask(askSignal, byte(sig), buf)
	return buf[0] == 1, err == nil && n == 1
}

func (h *helper) socket(family int) (int, error) {
	buf := make([]byte, 1)
	n, fds, err := h.ask(askSocket, byte(family), buf)
	if err != nil || n != 1 {
		return -1, errors.Join(errors.New("helper gone"), err)
	}
	if len(fds) != 1 {
		return -1, unix.Errno(buf[0])
	}
	return fds[0], nil
}

// NewSocket makes a stream socket of an address family in COMMAND's network namespace, non-blocking and close-on-exec.
func (s *Session) NewSocket(family int) (int, error) {
	if s.helper == nil {
		return -1, ErrUnavailable
	}
	return s.helper.socket(family)
}

// close ends the helper, whose parent is this process, and reaps it.
func (h *helper) close() {
	h.file.Close()
	_ = unix.Kill(h.pid, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(h.pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// DialInside connects over TCP within COMMAND's network namespace, to a loopback address there. No rule captures it.
func (s *Session) DialInside(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if s.helper == nil {
		return nil, ErrUnavailable
	}
	family, sa := sockaddr(to)
	fd, err := s.helper.socket(family)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, nft.MarkOwn); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mark: %w", err)
	}
	err = unix.Connect(fd, sa)
	f := os.NewFile(uintptr(fd), "inside")
	defer f.Close()
	if err != nil && err != unix.EINPROGRESS {
		return nil, err
	}
	if err != nil {
		if err := connected(ctx, f); err != nil {
			return nil, err
		}
	}
	return net.FileConn(f)
}

// connected waits for a connection in the making.
func connected(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Write(func(fd uintptr) bool {
		var status int
		if status, inner = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); inner != nil {
			return true
		}
		if status != 0 {
			inner = unix.Errno(status)
			return true
		}
		_, e := unix.Getpeername(int(fd))
		return e == nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, inner)
}
