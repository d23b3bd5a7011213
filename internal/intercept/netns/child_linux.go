package netns

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The first argument of detour's own processes inside; nothing that a user types can be mistaken for it.
const (
	childName  = "detour: run (starting)"
	helperName = "detour: run (helper)"
)

// childConfig goes to the child as its second argument.
type childConfig struct {
	Control         int // the child's end of the socket pair
	Parent          int
	Plain           bool
	UserNamespace   bool
	PrivateLoopback bool
	IPv6            bool // the host reaches IPv6 networks
}

// childReport is the child's first message; the sockets come with it, in the order of Sockets.
type childReport struct {
	Error   string
	Helper  int // process id
	Sockets []string
}

// The kinds of socket in a childReport.
const (
	kindHelper    = "helper"
	kindCapture   = "capture"
	kindLoopback  = "loopback"
	kindDNSPacket = "dns-packet"
	kindDNSStream = "dns-stream"
	kindQueue     = "queue"
	kindDiag      = "diag"
)

// execReport is the child's second and last message, sent only if COMMAND could not be started.
type execReport struct{ Errno syscall.Errno }

// MaybeChild must be the first thing that main does: where the process is one that Start made, it never returns.
func MaybeChild() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[0] {
	case childName:
		childMain()
	case helperName:
		helperMain()
	}
}

// childMain prepares the namespaces it finds itself in and becomes COMMAND. The thread is locked: capabilities, the
// signal for the parent's death and the namespaces of a thread are what exec goes by.
func childMain() {
	runtime.LockOSThread()
	var cfg childConfig
	if err := json.Unmarshal([]byte(os.Args[1]), &cfg); err != nil {
		os.Exit(125)
	}
	unix.CloseOnExec(cfg.Control)
	set := setup{cfg: cfg}
	err := set.run()
	report := childReport{Helper: set.helper, Sockets: set.kinds}
	if err != nil {
		report = childReport{Error: err.Error()}
		set.fds = nil
	}
	if send(cfg.Control, report, set.fds) != nil || err != nil {
		os.Exit(125)
	}
	// detour answers with one byte when it is ready to serve, or goes away.
	if n, err := retryRead(cfg.Control, make([]byte, 1)); n != 1 || err != nil {
		os.Exit(125)
	}
	errno := becomeCommand(cfg, os.Args[2:])
	_ = send(cfg.Control, execReport{errno}, nil)
	os.Exit(125)
}

func retryRead(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func send(fd int, message any, fds []int) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(fd, data, rights, nil, unix.MSG_NOSIGNAL)
}

// becomeCommand returns only when it fails.
func becomeCommand(cfg childConfig, argv []string) syscall.Errno {
	if cfg.UserNamespace {
		if err := dropCapabilities(); err != nil {
			return syscall.EPERM
		}
	}
	// COMMAND must not outlive detour: it would be cut off from the network. The signal is that which ends a process
	// started directly when it is killed.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil || os.Getppid() != cfg.Parent {
		os.Exit(125)
	}
	return execvp(argv, os.Environ())
}

// dropCapabilities gives up what the user namespace granted. COMMAND of an ordinary user has none; root of a
// user namespace gets them again by exec, as root does.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// execvp starts argv as execvp(3) does, so that what starts under env(1) starts here: PATH searched, files that are
// not executable passed over, a script without "#!" given to sh.
func execvp(argv, env []string) syscall.Errno {
	name := argv[0]
	if strings.Contains(name, "/") {
		return execFile(name, argv, env)
	}
	if name == "" {
		return syscall.ENOENT
	}
	result := syscall.ENOENT
	for _, dir := range strings.Split(searchPath(env), ":") {
		if dir == "" {
			dir = "."
		}
		switch errno := execFile(dir+"/"+name, argv, env); errno {
		case syscall.EACCES:
			result = errno
		case syscall.ENOENT, syscall.ENOTDIR, syscall.ESTALE, syscall.ENODEV, syscall.ETIMEDOUT:
		default:
			return errno
		}
	}
	return result
}

// searchPath is PATH, or what glibc takes when there is none (confstr, _CS_PATH).
func searchPath(env []string) string {
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			return path
		}
	}
	return "/bin:/usr/bin"
}

func execFile(path string, argv, env []string) syscall.Errno {
	err := syscall.Exec(path, argv, env)
	if err == syscall.ENOEXEC {
		err = syscall.Exec("/bin/sh", append([]string{"/bin/sh", path}, argv[1:]...), env)
	}
	errno, ok := err.(syscall.Errno)
	if !ok {
		return syscall.EINVAL // an argument with a NUL byte
	}
	return errno
}

// startHelper forks the helper as a sibling: its parent is detour, not COMMAND.
func (s *setup) startHelper() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[1])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	n := uintptr(null)
	s.helper, err = syscall.ForkExec("/proc/self/exe", []string{helperName, "-"}, &syscall.ProcAttr{
		Dir:   "/",
		Files: []uintptr{n, n, n, uintptr(pair[1])},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT},
	})
	if err != nil {
		unix.Close(pair[0])
		return fmt.Errorf("helper: %w", err)
	}
	s.add(kindHelper, pair[0])
	return nil
}
