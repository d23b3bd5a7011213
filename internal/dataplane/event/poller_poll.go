//go:build unix

package event

import (
	"time"

	"golang.org/x/sys/unix"
)

// poll is the portable poller, on poll(2): its cost grows with the number of sockets, so Linux uses epoll. It gives
// the same edges: a socket is asked about only in the directions it has drained.
type poll struct {
	read, write int // a pipe that wake writes to
	fds         []unix.PollFd
	gens        []int32
}

func newPoll() (*poll, error) {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return nil, err
	}
	for _, fd := range p {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(p[0])
			unix.Close(p[1])
			return nil, err
		}
	}
	return &poll{read: p[0], write: p[1]}, nil
}

func (p *poll) add(*Socket) error { return nil }
func (p *poll) remove(*Socket)    {}

func (p *poll) wait(d *Dispatcher, timeout time.Duration) int {
	p.fds = append(p.fds[:0], unix.PollFd{Fd: int32(p.read), Events: unix.POLLIN})
	p.gens = append(p.gens[:0], 0)
	for _, s := range d.sockets {
		if s == nil {
			continue
		}
		var want int16
		if !s.readable {
			want |= unix.POLLIN
		}
		if !s.writable {
			want |= unix.POLLOUT
		}
		if want != 0 {
			p.fds = append(p.fds, unix.PollFd{Fd: int32(s.fd), Events: want})
			p.gens = append(p.gens, s.gen)
		}
	}
	ms := -1
	if timeout >= 0 {
		ms = int((timeout + time.Millisecond - 1) / time.Millisecond)
	}
	if _, err := unix.Poll(p.fds, ms); err != nil {
		return 0
	}
	return len(p.fds)
}

func (p *poll) dispatch(d *Dispatcher, n int) {
	for i := range n {
		ev := p.fds[i].Revents
		if ev == 0 {
			continue
		}
		if i == 0 {
			var b [64]byte
			_, _ = unix.Read(p.read, b[:])
			continue
		}
		hup := ev&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
		d.event(int(p.fds[i].Fd), p.gens[i], ev&unix.POLLIN != 0, ev&unix.POLLOUT != 0 || hup, hup)
	}
}

func (p *poll) wake() { _, _ = unix.Write(p.write, []byte{1}) }

func (p *poll) close() {
	unix.Close(p.read)
	unix.Close(p.write)
}
