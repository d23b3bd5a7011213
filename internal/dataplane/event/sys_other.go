//go:build unix && !linux

package event

import (
	"time"

	"golang.org/x/sys/unix"
)

const acceptPause = 100 * time.Millisecond

func rawRead(fd int, p []byte) (int, error)  { return unix.Read(fd, p) }
func rawWrite(fd int, p []byte) (int, error) { return unix.Write(fd, p) }

func rawWritev(fd int, a, b []byte) (int, error) {
	n, err := unix.Write(fd, a)
	if err != nil || n < len(a) {
		return n, err
	}
	m, err := unix.Write(fd, b)
	if err != nil {
		return n, nil // the next write reports it
	}
	return n + m, nil
}

func newSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	return prepared(fd, err)
}

func acceptSocket(fd int) (int, unix.Sockaddr, error) {
	nfd, sa, err := unix.Accept(fd)
	nfd, err = prepared(nfd, err)
	return nfd, sa, err
}

func prepared(fd int, err error) (int, error) {
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Acked can't be told here.
func (s *Socket) Acked() (bytes uint64, ok bool) { return 0, false }
