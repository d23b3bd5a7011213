package event

import (
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Bounds of a dispatcher's pipes. Only a direction whose receiver lags holds one for long; what finds none copies.
const (
	maxPipes     = 64
	maxFreePipes = 16
	// pipeSize is room for what a socket has ready on a fast link: with 256 kB, TCP proxying costs 1.6 times as much. An
	// unprivileged user has 64 MB for all pipes of all programs (pipe-user-pages-soft), so a process makes only the first
	// largePipes that large; the rest keep the system's size, 64 kB.
	pipeSize   = 1 << 20
	largePipes = 24
)

// large counts the process's pipes of pipeSize.
var large atomic.Int32

// pipe is a kernel buffer between two sockets.
type pipe struct {
	read, write int
	large       bool
}

func (p *pipe) close() {
	if p.large {
		large.Add(-1)
	}
	unix.Close(p.read)
	unix.Close(p.write)
}

// pipes are the pipes of one dispatcher.
type pipes struct {
	free []*pipe
	open int
}

func (d *Dispatcher) pipe() *pipe {
	p := &d.pipes
	if n := len(p.free); n > 0 {
		last := p.free[n-1]
		p.free = p.free[:n-1]
		return last
	}
	if p.open >= maxPipes {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	made := &pipe{read: fds[0], write: fds[1]}
	if made.large = large.Add(1) <= largePipes; made.large {
		_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	} else {
		large.Add(-1)
	}
	p.open++
	return made
}

// givePipe takes a pipe back, to be used again if it is empty.
func (d *Dispatcher) givePipe(p *pipe, empty bool) {
	if empty && len(d.pipes.free) < maxFreePipes {
		d.pipes.free = append(d.pipes.free, p)
		return
	}
	d.pipes.open--
	p.close()
}

// DropPipes closes the pipes that nobody uses: descriptors are short, or the loop ends.
func (d *Dispatcher) DropPipes() {
	for _, p := range d.pipes.free {
		d.pipes.open--
		p.close()
	}
	d.pipes.free = nil
}

// Fill moves up to limit bytes from a socket into the kernel's hands. Only an empty Splice may be filled. It returns what
// Socket.Read would, or ErrNoSplice, after which nothing was taken and the bytes have to be copied.
func (sp *Splice) Fill(from *Socket, limit int64) (int, error) {
	if !from.readable {
		return 0, ErrAgain
	}
	if sp.pipe = from.d.pipe(); sp.pipe == nil {
		return 0, ErrNoSplice
	}
	for {
		n, err := rawSplice(from.fd, sp.pipe.write, int(min(limit, 1<<30)))
		switch {
		case err == unix.EINTR:
			continue
		case err == nil && n > 0:
			// Less than asked for does not mean that there is no more: a pipe is full when its slots are.
			from.BytesRead += uint64(n)
			sp.held = n
			return n, nil
		}
		sp.giveBack(from.d)
		switch err {
		case nil:
			return 0, io.EOF
		case unix.EAGAIN:
			from.readable = false
			return 0, ErrAgain
		case unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.ENOMEM:
			return 0, ErrNoSplice
		}
		return 0, err
	}
}

// Drain writes what is held to a socket, as Socket.Write does.
func (sp *Splice) Drain(to *Socket) (int, error) {
	if !to.writable {
		return 0, ErrAgain
	}
	for {
		n, err := rawSplice(sp.pipe.read, to.fd, sp.held)
		switch {
		case err == unix.EAGAIN:
			to.writable = false
			return 0, ErrAgain
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.ErrUnexpectedEOF // the kernel lost bytes; it never does
		}
		to.BytesWritten += uint64(n)
		if sp.held -= n; sp.held == 0 {
			sp.giveBack(to.d)
		}
		return n, nil
	}
}

func (sp *Splice) giveBack(d *Dispatcher) {
	if sp.pipe != nil {
		d.givePipe(sp.pipe, sp.held == 0)
		sp.pipe, sp.held = nil, 0
	}
}

func rawSplice(from, to, n int) (int, error) {
	m, _, e := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if e != 0 {
		return 0, e
	}
	return int(m), nil
}
