//go:build linux

package feature

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// launcher says how a command is started: this test binary becomes the command, after what only a process of its own
// can do.
type launcher struct {
	// ResolvConf, if not empty, is what the command sees as /etc/resolv.conf.
	ResolvConf string
	User       bool // as an ordinary user, without any capability
}

// asUser and asRoot make a command line run as somebody, with a resolv.conf that names the world's DNS server.
func (w *world) asUser(cmd *exec.Cmd) *exec.Cmd { return w.launched(cmd, true) }

func (w *world) asRoot(cmd *exec.Cmd) *exec.Cmd { return w.launched(cmd, false) }

func (w *world) launched(cmd *exec.Cmd, user bool) *exec.Cmd {
	w.t.Helper()
	how, err := json.Marshal(launcher{ResolvConf: w.scratchFile("resolv.conf", "nameserver 127.0.0.53\n"), User: user})
	if err != nil {
		w.t.Fatal(err)
	}
	out := exec.Command("/proc/self/exe", cmd.Args...)
	out.Env = w.environment(append(cmd.Env, launchVariable+"="+string(how), toolVariable+"=1")...)
	out.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	return out
}

// launch does what the launcher says, and becomes the command.
func launch(how string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "launcher:", err)
		os.Exit(99)
	}
	var l launcher
	if err := json.Unmarshal([]byte(how), &l); err != nil {
		fail(err)
	}
	os.Unsetenv(launchVariable)
	if l.ResolvConf != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fail(err)
		}
		if err := unix.Mount(l.ResolvConf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
			fail(fmt.Errorf("/etc/resolv.conf: %w", err))
		}
	}
	args := os.Args[1:]
	if !l.User {
		path, err := exec.LookPath(args[0])
		if err != nil {
			fail(err)
		}
		fail(unix.Exec(path, args, os.Environ()))
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fail(err)
	}
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		os.Exit(128 + int(s.Signal()))
	}
	os.Exit(cmd.ProcessState.ExitCode())
}
