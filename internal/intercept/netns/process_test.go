//go:build linux

package netns_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestExitStatus(t *testing.T) {
	need(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("exit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		command []string
		code    int
		signal  syscall.Signal
	}{
		{"success", []string{"true"}, 0, 0},
		{"failure", []string{"sh", "-c", "exit 7"}, 7, 0},
		{"terminated", []string{"sh", "-c", "kill -TERM $$"}, 0, unix.SIGTERM},
		{"killed", []string{"sh", "-c", "kill -KILL $$"}, 0, unix.SIGKILL},
		{"interrupted", []string{"sh", "-c", "kill -INT $$"}, 0, unix.SIGINT},
		{"quit", []string{"sh", "-c", "ulimit -c 0; kill -QUIT $$"}, 0, unix.SIGQUIT},
		{"segmentation fault", []string{"sh", "-c", "ulimit -c 0; kill -SEGV $$"}, 0, unix.SIGSEGV},
		{"not found", []string{"no-such-program"}, 127, 0},
		{"not found by path", []string{"/no/such/program"}, 127, 0},
		{"not executable", []string{plain}, 126, 0},
		{"a directory", []string{dir}, 126, 0},
		{"a script without an interpreter", []string{script}, 9, 0},
	} {
		for _, cfg := range []driverConfig{{}, {Plain: true}} {
			t.Run(fmt.Sprintf("%s, plain %v", test.name, cfg.Plain), func(t *testing.T) {
				_, errs, status := cfg.output(t, test.command...)
				if test.signal != 0 && (!status.Signaled() || status.Signal() != test.signal) {
					t.Errorf("ended with %v, want signal %v (%s)", status, test.signal, errs)
				}
				if test.signal == 0 && (!status.Exited() || status.ExitStatus() != test.code) {
					t.Errorf("ended with %v, want exit status %d (%s)", status, test.code, errs)
				}
			})
		}
	}
}

// Streams are COMMAND's own: large, binary, and at their end when COMMAND closes them.
func TestStreams(t *testing.T) {
	need(t)
	data := bytes.Repeat([]byte{0, 1, 2, 0xff, '\n'}, 200_000)
	cmd := driverConfig{}.command(t, "cat")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil || !bytes.Equal(out, data) {
		t.Errorf("%d bytes of %d came back: %v", len(out), len(data), err)
	}

	cmd = driverConfig{}.command(t, "sh", "-c", "echo out; exec >&-; read line; exit 3")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Would hang while anyone beside COMMAND held the pipe.
	if out, err := io.ReadAll(stdout); string(out) != "out\n" {
		t.Errorf("%q, %v", out, err)
	}
	in.Close()
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("%v", cmd.ProcessState)
	}
}

// Descriptors beyond the standard streams are the user's affair: `<(…)` of a shell, make's jobserver.
func TestInheritedDescriptor(t *testing.T) {
	need(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "through the pipe")
	w.Close()
	cmd := driverConfig{}.command(t, "sh", "-c", "cat <&3; ls -l /proc/self/fd | grep -c -e socket: -e anon_inode")
	cmd.ExtraFiles = []*os.File{r}
	out, _ := cmd.Output()
	r.Close()
	if string(out) != "through the pipe0\n" {
		t.Errorf("got %q; want the pipe's content and none of detour's own descriptors", out)
	}
}

// counter prints the number of each signal that it gets and ends by itself on SIGTERM. The signals are blocked and waited for:
// with handlers, one that comes just before the wait would be seen only when the next one comes.
const counter = `import os, signal, sys
mine = (1, 2, 3, 10, 12, 14, 15, 28, 40)
signal.pthread_sigmask(signal.SIG_BLOCK, mine)
print("ready", flush=True)
while True:
    n = signal.sigwait(mine)
    os.write(1, b"%d\n" % n)
    if n == signal.SIGTERM: sys.exit(5)`

// Every signal reaches COMMAND, whether it was sent to detour alone or to the group that both are in: once in the first case,
// and in the second where the machine is not so busy that detour can't tell.
func TestSignals(t *testing.T) {
	need(t)
	for _, cfg := range []driverConfig{{}, {Plain: true}} {
		cmd := cfg.command(t, "python3", "-c", counter)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		twice := map[string]bool{} // what was sent to the group
		expect := func(want string) {
			t.Helper()
			for lines.Scan() && lines.Text() != want && twice[lines.Text()] {
			}
			if lines.Text() != want {
				_ = cmd.Wait()
				t.Fatalf("got %q, want %q (plain: %v; %v)", lines.Text(), want, cfg.Plain, cmd.ProcessState)
			}
		}
		expect("ready")
		pid := cmd.Process.Pid
		send := func(target int, sig syscall.Signal) {
			t.Helper()
			name := strconv.Itoa(int(sig))
			twice[name] = twice[name] || target < 0
			if err := unix.Kill(target, sig); err != nil {
				t.Fatal(err)
			}
			expect(name)
		}
		for _, sig := range []syscall.Signal{1, 2, 3, 10, 12, 14, 28, 40} {
			if signal.Ignored(sig) { // as under nohup: COMMAND ignores it too
				continue
			}
			send(pid, sig)
			send(-pid, sig)
		}
		send(pid, unix.SIGTERM)
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() != 5 {
			t.Errorf("%v", cmd.ProcessState)
		}
	}
}

// nohup's ignored SIGHUP stays ignored.
func TestNohup(t *testing.T) {
	need(t)
	cmd := driverConfig{}.command(t, "sh", "-c", "grep SigIgn /proc/self/status")
	wrapped := exec.Command("sh", append([]string{"-c", `trap "" HUP; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)...)
	wrapped.Env = cmd.Env
	out, err := wrapped.Output()
	if err != nil || !strings.HasSuffix(string(out), "1\n") {
		t.Errorf("SIGHUP is not ignored: %q, %v", out, err)
	}
}

// COMMAND does not outlive a detour that was killed.
func TestDetourKilled(t *testing.T) {
	need(t)
	cmd := driverConfig{}.command(t, "sh", "-c", "echo ready; exec sleep 1000")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(stdout)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends when sleep, its last writer, does.
	if _, err := io.ReadAll(r); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
}

// session is a driver on a terminal of its own, as a shell with job control would have it.
type session struct {
	t   *testing.T
	tty *os.File
	pid int
	out *bufio.Reader
}

func onTerminal(t *testing.T, command ...string) *session {
	t.Helper()
	cmd := driverConfig{}.command(t, command...)
	tty, err := pty.Start(cmd) // a new session, of which the driver leads the foreground group
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		tty.Close()
	})
	return &session{t: t, tty: tty, pid: cmd.Process.Pid, out: bufio.NewReader(tty)}
}

func (s *session) key(b byte) {
	s.t.Helper()
	if _, err := s.tty.Write([]byte{b}); err != nil {
		s.t.Fatal(err)
	}
}

// expect reads up to a line that ends with want; the terminal echoes control characters in front.
func (s *session) expect(want string) {
	s.t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil || !strings.HasSuffix(strings.TrimRight(line, "\r\n"), want) {
		s.t.Fatalf("got %q, %v; want %q", line, err, want)
	}
}

func (s *session) wait() unix.WaitStatus {
	s.t.Helper()
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(s.pid, &ws, unix.WUNTRACED, nil)
		if err == nil {
			return ws
		}
		if err != unix.EINTR {
			s.t.Fatal(err)
		}
	}
}

func TestTerminalSignals(t *testing.T) {
	need(t)
	s := onTerminal(t, "python3", "-c", counter)
	s.expect("ready")
	s.key(3)
	s.expect("2")
	s.key(28)
	s.expect("3")
	// From elsewhere, to detour alone. Not one of those before: of two equal signals that wait the kernel keeps one.
	if err := unix.Kill(s.pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	s.expect("10")
	if err := pty.Setsize(s.tty, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	s.expect("28")
	if err := unix.Kill(s.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.expect("15")
	if ws := s.wait(); ws.ExitStatus() != 5 {
		t.Errorf("%v", ws)
	}
}

func TestInterrupted(t *testing.T) {
	need(t)
	s := onTerminal(t, "sh", "-c", "echo ready; exec sleep 1000")
	s.expect("ready")
	s.key(3)
	if ws := s.wait(); !ws.Signaled() || ws.Signal() != unix.SIGINT {
		t.Errorf("%v", ws)
	}
}

// A real shell stops a pipeline with COMMAND in it, wakes it, interrupts it, and ends one in the background.
func TestJobControl(t *testing.T) {
	need(t)
	bash, err := exec.LookPath("bash") // line editing stays off on a dumb terminal
	if err != nil {
		t.Fatal(err)
	}
	cmd := driverConfig{}.command(t, "x")
	shell := exec.Command(bash, "--norc", "--noprofile", "-i")
	shell.Env = append(cmd.Env, "PS1=", "PS2=", "TERM=dumb")
	tty, err := pty.Start(shell)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	defer func() { _ = shell.Process.Kill(); _ = shell.Wait() }()
	// A shell that waits for ever ends the test with what was read so far, not with the whole run.
	defer time.AfterFunc(time.Minute, func() { _ = shell.Process.Kill() }).Stop()
	out := bufio.NewReader(tty)
	// until reads up to a line with want in it, which nothing typed contains: the terminal echoes.
	until := func(want string) {
		t.Helper()
		var all strings.Builder
		for {
			line, err := out.ReadString('\n')
			all.WriteString(line)
			if err != nil {
				t.Fatalf("no %q in %q: %v", want, all.String(), err)
			}
			if strings.Contains(line, want) {
				return
			}
		}
	}
	typed := func(s string) { fmt.Fprint(tty, s) }
	typed(cmd.Path + " sh -c 'echo up-$((1+1)); exec cat' | sed -u s/^/sed-/\n")
	until("sed-up-2")
	typed("one\n")
	until("sed-one")
	typed("\x1a")
	until("Stopped")
	typed("echo stat-$((147+1))\n")
	until("stat-148")
	typed("fg\n")
	until("sed -u")
	typed("two\n")
	until("sed-two")
	typed("\x03")
	until("^C")
	typed("echo pipe-${PIPESTATUS[0]}-\n")
	until("pipe-130-")
	typed(cmd.Path + " sleep 1000 &\n")
	typed("kill %1; wait %1; echo status-$?-\n")
	until("status-143-")
}
