package netns

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// relay makes detour stand in for COMMAND: a signal sent to detour's process reaches COMMAND once.
type relay struct {
	session *Session
	in      chan os.Signal
	quit    chan struct{}
	done    chan struct{}
	running bool
}

func newRelay(s *Session) *relay {
	return &relay{
		session: s,
		in:      make(chan os.Signal, 64),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
	}
}

// relayed are the signals that a user or a supervisor may send. Left out are those the Go runtime uses, those that
// can't be caught, and SIGCHLD, which is about detour's own children.
func relayed() []os.Signal {
	list := []os.Signal{unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT, unix.SIGWINCH}
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGALRM, unix.SIGIO, unix.SIGPWR} {
		// Under nohup(1) the signal stays ignored, in COMMAND as well.
		if !signal.Ignored(sig) {
			list = append(list, sig)
		}
	}
	for sig := syscall.Signal(35); sig <= 64; sig++ {
		list = append(list, sig)
	}
	return list
}

func (r *relay) start() {
	r.running = true
	signal.Notify(r.in, relayed()...)
	go func() {
		defer close(r.done)
		for {
			select {
			case sig := <-r.in:
				r.handle(sig.(syscall.Signal))
			case <-r.quit:
				return
			}
		}
	}()
}

func (r *relay) stop() {
	if !r.running {
		return
	}
	signal.Stop(r.in)
	close(r.quit)
	<-r.done
}

func (r *relay) handle(sig syscall.Signal) {
	s := r.session
	<-s.started
	if sig == unix.SIGCONT {
		// Sent to the group, it has woken COMMAND already; what runs must not get a second one.
		if stopped(s.pid) {
			_ = s.Signal(sig)
		}
		return
	}
	if !r.commandHasIt(sig) {
		_ = s.Signal(sig)
	}
}

// commandHasIt tells whether the signal went to the whole process group, as those of a terminal do.
func (r *relay) commandHasIt(sig syscall.Signal) bool {
	group, err := unix.Getpgid(r.session.pid)
	if err != nil || group != unix.Getpgrp() {
		return false
	}
	if r.session.helper != nil {
		if has, ok := r.session.helper.hasGot(sig); ok {
			return has
		}
	}
	return foreground()
}

// foreground tells whether detour's process group is the one that the terminal sends its signals to: the next best
// evidence when there is no helper.
func foreground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// stopped reads the state of a process (proc_pid_stat(5), field 3, after the name in parentheses).
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(stat, ')')
	return i >= 0 && len(stat) > i+2 && stat[i+2] == 'T'
}

// wait follows COMMAND to its end. When COMMAND stops, detour stops too: that is what the user's shell looks at.
func (s *Session) wait() Status {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(s.pid, &ws, unix.WUNTRACED, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return Status{Code: 125}
		case ws.Stopped():
			s.follow(ws.StopSignal())
		case ws.Signaled():
			return Status{Signal: ws.Signal()}
		case ws.Exited():
			return Status{Code: ws.ExitStatus()}
		}
	}
}

// follow stops this process by the signal that stopped COMMAND. In an orphaned process group the kernel ignores that,
// and there is no shell to tell.
func (s *Session) follow(sig syscall.Signal) {
	<-s.started
	// The group's own signal may have stopped this process already, between the two lines that take the handler away
	// and look: woken from that, COMMAND runs too, and stopping once more would be for nothing. The signal goes to this
	// thread, which thus stops before it gives the handler back.
	stop := func() {
		if stopped(s.pid) {
			_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
		}
	}
	if sig == unix.SIGSTOP {
		stop()
		return
	}
	withDefaultAction(sig, stop)
}

// DieAs ends this process the way COMMAND ended: by the same signal, so that the caller's wait(2) sees what it would
// have seen, else by the same exit status. It leaves no second core file.
func DieAs(status Status) {
	if status.Signal != 0 {
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		runtime.LockOSThread()
		withDefaultAction(status.Signal, func() {
			_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), status.Signal)
		})
	}
	os.Exit(status.Exit())
}

// kernelAction is struct sigaction as rt_sigaction(2) takes it on 64-bit Linux: handler, flags, restorer, mask.
type kernelAction [4]uint64

// withDefaultAction takes the signal's handler away from the Go runtime while f runs, and lets this thread receive it.
func withDefaultAction(sig syscall.Signal, f func()) {
	var none, old kernelAction
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&none)),
		uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	var set, mask unix.Sigset_t
	set.Val[0] = 1 << (sig - 1)
	_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, &mask)
	f()
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil)
	if errno == 0 {
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	}
}
