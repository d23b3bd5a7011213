//go:build !linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// MaybeChild has nothing to do here: no process inside is made on this system.
func MaybeChild() {}

// Session is one COMMAND, without sockets: only the environment can lead it to detour on this system.
type Session struct {
	Sockets
	cmd     *exec.Cmd
	signals chan os.Signal
	done    chan struct{}
}

// Start gives Plain sessions only on this system.
func Start(_ context.Context, opt Options) (*Session, error) {
	if !opt.Plain {
		return nil, fmt.Errorf("%w: this system has none", ErrUnavailable)
	}
	if len(opt.Command) == 0 {
		return nil, errors.New("no command")
	}
	cmd := exec.Command(opt.Command[0], opt.Command[1:]...)
	cmd.Env = opt.Env
	std := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	for i, f := range opt.Files {
		if f != nil {
			std[i] = f
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = std[0], std[1], std[2]
	return &Session{Sockets: Sockets{Queue: -1}, cmd: cmd, signals: make(chan os.Signal, 64), done: make(chan struct{})}, nil
}

// Go lets COMMAND start and gives an *ExecError if it can't be. From here on signals to detour are COMMAND's; those of
// the terminal it gets itself.
func (s *Session) Go() error {
	if err := s.cmd.Start(); err != nil {
		errno := syscall.ENOENT
		if !errors.Is(err, exec.ErrNotFound) && !errors.As(err, &errno) {
			errno = syscall.EACCES
		}
		return &ExecError{Command: s.cmd.Args[0], Errno: errno}
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT)
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for {
			select {
			case sig := <-s.signals:
				_ = s.cmd.Process.Signal(sig)
			case <-s.done:
				return
			}
		}
	}()
	return nil
}

// Wait gives COMMAND's status when it has ended.
func (s *Session) Wait() Status {
	_ = s.cmd.Wait()
	if ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Status{Signal: ws.Signal()}
	}
	return Status{Code: s.cmd.ProcessState.ExitCode()}
}

// Signal sends a signal to COMMAND.
func (s *Session) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// Listening is not known on this system.
func (s *Session) Listening() (map[uint16]bool, error) { return nil, ErrUnavailable }

// DialInside has no inside on this system.
func (s *Session) DialInside(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, ErrUnavailable
}

// NewSocket has no inside on this system.
func (s *Session) NewSocket(int) (int, error) { return -1, ErrUnavailable }

// Close stops passing signals on.
func (s *Session) Close() error {
	signal.Stop(s.signals)
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	return nil
}

// DieAs ends this process with the status that a shell shows for COMMAND's.
func DieAs(status Status) { os.Exit(status.Exit()) }
