package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the built command.
var binary string

// patience is far more than anything here takes.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if binary = os.Getenv("DETOUR_CLI_INSIDE"); binary != "" { // built already; see start_linux_test.go
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "detour-cli")
	if err == nil {
		binary = filepath.Join(dir, "detour")
		build := exec.Command("go", "build", "-race=false", "-o", binary, "detour.dev/detour/cmd/detour")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// process is a running command whose output can be waited for.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	done   chan struct{}
	mu     sync.Mutex
	stderr bytes.Buffer
	stdout bytes.Buffer
}

type tap struct {
	p *process
	b *bytes.Buffer
}

func (t tap) Write(b []byte) (int, error) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	return t.b.Write(b)
}

// environment is what commands get: nothing of the caller's own. Admin sockets are in dir.
func environment(dir string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + dir, "TMPDIR=" + dir}
}

// launch starts the binary; it is killed when the test ends.
func launch(t *testing.T, dir, stdin string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), done: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdin = environment(dir), strings.NewReader(stdin)
	p.cmd.Stdout, p.cmd.Stderr = tap{p, &p.stdout}, tap{p, &p.stderr}
	p.begin()
	return p
}

func (p *process) begin() {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if p.t.Failed() {
			p.t.Logf("%v\nstdout: %s\nstderr: %s", p.cmd.Args, p.out(), p.err())
		}
	})
}

func (p *process) out() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

func (p *process) err() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// wait gives the exit status; -1 for an end by a signal.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("still runs")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// await looks until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-deadline:
			t.Fatalf("not so: %s", what)
		case <-tick.C:
		}
	}
}

// TestBinaryIsSmall: the linker leaves out what is never called. One use of text/template (cobra's, for texts of one's own)
// keeps it all: 16 MB of file and 6 MB of memory more.
func TestBinaryIsSmall(t *testing.T) {
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	if mb := info.Size() >> 20; mb > 36 {
		t.Errorf("the binary has %d MB", mb)
	}
}
