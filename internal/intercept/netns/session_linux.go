package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/intercept/nft"
)

// Session is one COMMAND. Its sockets are there from Start on; COMMAND itself starts with Go.
type Session struct {
	Sockets

	command string
	pid     int
	control *os.File
	helper  *helper // nil when it could not be had
	diag    *diag

	started chan struct{} // closed when COMMAND runs, or never will
	settle  func()        // closes started, once
	reaped  chan struct{} // closed when status is set
	status  Status

	closeOnce sync.Once
	signals   *relay
}

// Start forks COMMAND's process up to where it waits for Go. An error that is ErrUnavailable means that only a Plain
// session can be had on this machine. ctx bounds the setup only.
func Start(ctx context.Context, opt Options) (*Session, error) {
	if len(opt.Command) == 0 {
		return nil, errors.New("no command")
	}
	control, childEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	s := &Session{
		Sockets: Sockets{Queue: -1},
		command: opt.Command[0],
		control: control,
		started: make(chan struct{}),
		reaped:  make(chan struct{}),
	}
	s.settle = sync.OnceFunc(func() { close(s.started) })
	s.signals = newRelay(s)
	forked := make(chan error, 1)
	go s.attend(opt, childEnd, forked)
	if err := <-forked; err != nil {
		control.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := s.receiveSockets(ctx); err != nil {
		s.abort()
		return nil, err
	}
	return s, nil
}

func socketPair() (ours *os.File, theirs int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, err
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return nil, -1, err
	}
	return os.NewFile(uintptr(pair[0]), "control"), pair[1], nil
}

// attend forks the child and waits for it, on one thread that lives as long as the child does: the kernel sends the
// signal for the parent's death when the thread that forked ends.
func (s *Session) attend(opt Options, childEnd int, forked chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := fork(opt, childEnd)
	unix.Close(childEnd)
	s.pid = pid
	forked <- err
	if err != nil {
		return
	}
	s.status = s.wait()
	close(s.reaped)
}

// fork starts detour's own program again in new namespaces. Root keeps its user namespace, everyone else gets one in
// which nothing but the caller's own ids exists.
func fork(opt Options, childEnd int) (pid int, err error) {
	cfg := childConfig{
		Control:         childEnd,
		Parent:          os.Getpid(),
		Plain:           opt.Plain,
		PrivateLoopback: opt.PrivateLoopback,
		IPv6:            reachesIPv6(),
	}
	attr := &syscall.ProcAttr{Env: opt.Env, Files: inherited(opt.Files, childEnd), Sys: &syscall.SysProcAttr{}}
	if attr.Env == nil {
		attr.Env = []string{}
	}
	if !opt.Plain {
		attr.Sys.Cloneflags = unix.CLONE_NEWNET | unix.CLONE_NEWNS
		if cfg.UserNamespace = !mayUnshare(); cfg.UserNamespace {
			useUserNamespace(attr.Sys)
		}
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec("/proc/self/exe", append([]string{childName, string(data)}, opt.Command...), attr)
}

func useUserNamespace(sys *syscall.SysProcAttr) {
	uid, gid := os.Geteuid(), os.Getegid()
	sys.Cloneflags |= unix.CLONE_NEWUSER
	sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	sys.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE}
}

// mayUnshare tells whether network and mount namespaces can be made and furnished without a user namespace.
func mayUnshare() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE
	return data[0].Effective&need == need
}

// reachesIPv6 asks the routing table for a way to the IPv6 Internet; nothing is sent.
func reachesIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	root := netip.MustParseAddr("2001:500:2::c") // any address of the global range will do
	return unix.Connect(fd, &unix.SockaddrInet6{Port: 53, Addr: root.As16()}) == nil
}

// inherited lists what stays open in the child: its standard streams, whatever the user had opened for COMMAND beyond
// them (`<(…)` of a shell, a jobserver's pipe), and the child's end of the control socket.
func inherited(std [3]*os.File, control int) []uintptr {
	files := make([]uintptr, max(control+1, 3))
	for fd := range files {
		files[fd] = ^uintptr(0)
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && (fd < 3 || flags&unix.FD_CLOEXEC == 0) {
			files[fd] = uintptr(fd)
		}
	}
	for i, f := range std {
		if f != nil {
			files[i] = f.Fd()
		}
	}
	files[control] = uintptr(control)
	return files
}

// receiveSockets takes the child's report. A child that died without one (a signal from the terminal) shows in Wait.
func (s *Session) receiveSockets(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var report childReport
	fds, err := receive(s.control, &report)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: no report: %w", ErrUnavailable, err)
	}
	if report.Error == "" && len(fds) != len(report.Sockets) {
		report.Error = "some sockets were not handed over (too many open files?)"
	}
	if report.Error != "" {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return fmt.Errorf("%w: %s", ErrUnavailable, report.Error)
	}
	for i, kind := range report.Sockets {
		if err = errors.Join(err, s.take(kind, fds[i], report.Helper)); err != nil {
			unix.Close(fds[i])
		}
	}
	return err
}

func (s *Session) take(kind string, fd, helperPid int) error {
	switch kind {
	case kindCapture:
		s.Capture = append(s.Capture, fd)
	case kindLoopback, kindDNSStream:
		f := os.NewFile(uintptr(fd), kind)
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return err
		}
		if kind == kindLoopback {
			s.Loopback = append(s.Loopback, l)
		} else {
			s.DNSStream = append(s.DNSStream, l)
		}
	case kindDNSPacket:
		f := os.NewFile(uintptr(fd), kind)
		c, err := net.FilePacketConn(f)
		f.Close()
		if err != nil {
			return err
		}
		s.DNSPacket = append(s.DNSPacket, c)
	case kindQueue:
		s.Queue = fd
	case kindDiag:
		s.diag = &diag{file: os.NewFile(uintptr(fd), kind)}
	case kindHelper:
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		s.helper = &helper{pid: helperPid, file: os.NewFile(uintptr(fd), kind)}
	default:
		unix.Close(fd)
	}
	return nil
}

// receive reads one message and the descriptors that came with it.
func receive(f *os.File, message any) (fds []int, err error) {
	data := make([]byte, 64<<10)
	rights := make([]byte, unix.CmsgSpace(4*64))
	var n, rn int
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var inner error
	err = raw.Read(func(fd uintptr) bool {
		n, rn, _, _, inner = unix.Recvmsg(int(fd), data, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return inner != unix.EAGAIN && inner != unix.EINTR
	})
	if err = errors.Join(err, inner); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("closed")
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return nil, err
	}
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	if message == nil {
		return fds, nil
	}
	return fds, json.Unmarshal(data[:n], message)
}

// Go lets COMMAND start and gives an *ExecError if it can't be. From here on signals to detour are COMMAND's.
func (s *Session) Go() error {
	s.signals.start()
	defer s.settle()
	if _, err := s.control.Write([]byte{1}); err != nil {
		return nil // it died meanwhile: Wait tells how
	}
	var report execReport
	// Success closes the other end.
	if _, err := receive(s.control, &report); err != nil || report.Errno == 0 {
		return nil
	}
	return &ExecError{Command: s.command, Errno: report.Errno}
}

// Wait gives COMMAND's status when it has ended. Processes it left behind run on, cut off from the network once the
// session closes.
func (s *Session) Wait() Status {
	<-s.reaped
	return s.status
}

// Signal sends a signal to COMMAND.
func (s *Session) Signal(sig syscall.Signal) error {
	select {
	case <-s.reaped:
		return os.ErrProcessDone
	default:
		return unix.Kill(s.pid, sig)
	}
}

// Listening gives the TCP ports that some process inside listens on, without detour's own.
func (s *Session) Listening() (map[uint16]bool, error) {
	if s.diag == nil {
		return nil, ErrUnavailable
	}
	ports, err := s.diag.listening()
	for _, own := range []uint16{nft.CapturePort, nft.LoopbackPort, nft.DNSPort} {
		delete(ports, own)
	}
	return ports, err
}

// abort ends a child that has not become COMMAND.
func (s *Session) abort() {
	s.control.Close()
	s.settle()
	_ = unix.Kill(s.pid, unix.SIGKILL)
	<-s.reaped
	s.Close()
}

// Close gives back what the session still holds and ends COMMAND if it runs. Sockets that the caller has taken over
// are the caller's to close; closing the net types twice is harmless, so those are closed here.
func (s *Session) Close() error {
	s.closeOnce.Do(func() {
		s.control.Close()
		s.settle()
		select {
		case <-s.reaped:
		default:
			_ = unix.Kill(s.pid, unix.SIGKILL)
		}
		<-s.reaped
		s.signals.stop()
		for _, c := range s.DNSPacket {
			c.Close()
		}
		for _, l := range append(s.DNSStream, s.Loopback...) {
			l.Close()
		}
		if s.diag != nil {
			s.diag.file.Close()
		}
		if s.helper != nil {
			s.helper.close()
		}
	})
	return nil
}
