package event

import (
	"time"

	"golang.org/x/sys/unix"
)

func newPoller() (poller, error) { return newEpoll() }

// epoll registers each socket once, edge-triggered for both directions.
type epoll struct {
	fd     int
	wakeFD int
	events [256]unix.EpollEvent
}

func newEpoll() (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	e := &epoll{fd: fd, wakeFD: wake}
	err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(wake)})
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *epoll) add(s *Socket) error {
	return unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
		Fd:     int32(s.fd), Pad: s.gen,
	})
}

// remove has nothing to do where closing the descriptor takes the socket out of the set.
func (e *epoll) remove(s *Socket) {
	if s.shared {
		_ = unix.EpollCtl(e.fd, unix.EPOLL_CTL_DEL, s.fd, nil)
	}
}

func (e *epoll) wait(_ *Dispatcher, timeout time.Duration) int {
	ms := -1
	if timeout >= 0 {
		ms = int((timeout + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(e.fd, e.events[:], ms)
	if err != nil {
		return 0 // EINTR: another turn
	}
	return n
}

func (e *epoll) dispatch(d *Dispatcher, n int) {
	for i := range n {
		ev := &e.events[i]
		if int(ev.Fd) == e.wakeFD {
			var b [8]byte
			_, _ = unix.Read(e.wakeFD, b[:])
			continue
		}
		const hup = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
		d.event(int(ev.Fd), ev.Pad, ev.Events&(unix.EPOLLIN|hup) != 0, ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0, ev.Events&hup != 0)
	}
}

func (e *epoll) wake() {
	b := [8]byte{1}
	_, _ = unix.Write(e.wakeFD, b[:])
}

func (e *epoll) close() {
	unix.Close(e.wakeFD)
	unix.Close(e.fd)
}
