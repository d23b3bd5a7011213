//go:build linux

package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
	"go.uber.org/goleak"

	"detour.dev/detour/examples"
	_ "detour.dev/detour/internal/cli" // so that a cached result is of this code: the binary is built from it
	"detour.dev/detour/internal/demo"
)

// binary is the real detour.
var binary string

// TestMain builds the binary; in a process that demo.Run has started it plays.
func TestMain(m *testing.M) {
	if os.Getenv(demo.Variable) != "" {
		os.Exit(demo.Inside(os.Stdout, os.Stderr))
	}
	dir, err := os.MkdirTemp("", "detour-demo-test")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		binary = filepath.Join(dir, "detour")
		build := exec.Command("go", "build", "-race=false", "-o", binary, "detour.dev/detour/cmd/detour")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	status := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else if status = m.Run(); status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

// user is an ordinary user's id, for tests that root runs.
const user = 20001

// command is detour with a directory of its own for temporary files, as somebody (0: whoever runs the test).
func command(t *testing.T, uid int, args ...string) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "demo") // short: there are sockets below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	cmd = exec.Command(binary, args...)
	cmd.Dir = tmp
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + tmp, "HOME=" + tmp, "TERM=xterm"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if uid != 0 {
		if err := os.Chown(tmp, uid, uid); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	return cmd, tmp
}

// outcome runs a command to its end.
func outcome(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// The whole walkthrough, by an ordinary user and, where that is who runs the test, by root.
func TestWalkthrough(t *testing.T) {
	who := map[string]int{"as whoever runs this": 0}
	if os.Geteuid() == 0 {
		who = map[string]int{"as root": 0, "as an ordinary user": user}
	}
	for name, uid := range who {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, tmp := command(t, uid, "demo")
			begin := time.Now()
			out, errs, status := outcome(t, cmd)
			if status != 0 || errs != "" {
				t.Fatalf("status %d\n%s\n%s", status, errs, out)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("took %s", took)
			}
			nothingLeft(t, tmp)
			looksRight(t, out)
		})
	}
}

// looksRight holds what a newcomer reads.
func looksRight(t *testing.T, out string) {
	t.Helper()
	if strings.ContainsAny(out, "\x1b\r") {
		t.Error("escape sequences in a pipe")
	}
	for l := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(l, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
	for _, s := range demo.Steps() {
		if has := strings.Contains(out, "── "+s.ID+" · "+s.Title+" ─"); has == s.Slow {
			t.Errorf("step %s: title shown: %v", s.ID, has)
		}
	}
	for _, want := range []string{
		`\$ detour run -f config --locality us-east1 --resolver 127\.0\.0\.1 -- sh\n`,
		`\nsh\$ curl http://mydb\.com   # 5 times\n(  healthy: dynamodb\.us-west-1\.amazonaws\.com +\d+ ms\n){5}`,
		`  198\.51\.100\.1:81 +HEALTHY +FAILED +outbound\|80\|\|mydb\.com\n  203\.0\.113\.1:80 +HEALTHY +OK +outbound\|80\|\|mydb\.com\n`,
		`\n  - +http: 80\n  \+ +http: 81 # INVALID`,
		`reset reason: connection failure +\d+ ms  HTTP 503\n(  healthy: dynamodb\.us-west-1\S+ +\d+ ms\n){4}`,
		`consecutive5xxErrors: 1\n`, `mode: SIMPLE\n`, `attempts: 0\n`, `protocol: TLS\n`,
		`can't take\s+over for mydb\.com`, `curl: \(60\)`, `\n✓ 3r  the near region fails, and nothing is tried again  4 answered, 1 failed\n`, `\n✓ 3d  .* 6 answered\n`, `12 steps, each as it should be`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("not shown: %s\n%s", want, out)
		}
	}
	if strings.Contains(out, "✗") {
		t.Error("a failure, and exit status 0")
	}
}

// A stand-in that is killed in mid-demo is seen: the step does not show what it should.
func TestKilledStandIn(t *testing.T) {
	for _, step := range []string{"2", "3b", "4", "6"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			out, err := os.Create(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			errs, err := os.Create(filepath.Join(dir, "err"))
			if err != nil {
				t.Fatal(err)
			}
			defer errs.Close()
			status, err := demo.Run(t.Context(), demo.Options{Steps: []string{"2", "3b", "4", "6"}, Binary: binary, KillBefore: step, Stdout: out, Stderr: errs})
			said, _ := os.ReadFile(errs.Name())
			shown, _ := os.ReadFile(out.Name())
			if status != 1 || err != nil {
				t.Fatalf("status %d, %v\n%s", status, err, shown)
			}
			if !strings.HasPrefix(string(said), "detour: demo: step "+step+": expected: ") || strings.Count(string(said), "\n") != 1 {
				t.Errorf("stderr: %s", said)
			}
			if strings.Count(string(shown), "✗") != 1 || strings.Contains(string(shown), "as it should be") {
				t.Errorf("stdout: %s", shown)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if status, err := demo.Run(ctx, demo.Options{Steps: []string{"2"}, Binary: binary}); status == 0 {
		t.Errorf("status %d, %v", status, err)
	}
}

// onTerminal runs a command with a terminal for its standard streams.
func onTerminal(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	tty, err := pty.StartWithAttrs(cmd, &pty.Winsize{Rows: 24, Cols: 80}, cmd.SysProcAttr)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	var out bytes.Buffer
	_, _ = out.ReadFrom(tty) // ends with EIO when nobody has the terminal open any more
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}

func TestColour(t *testing.T) {
	const sgr = "\x1b["
	cmd, _ := command(t, 0, "demo", "--step", "2,3")
	out := onTerminal(t, cmd)
	for _, want := range []string{"\x1b[34mdynamodb.us-east-1.amazonaws.com\x1b[0m", "\x1b[31mFAILED\x1b[0m", "\x1b[32m✓\x1b[0m", "\x1b[32m+ "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		cmd, _ := command(t, 0, "demo", "--step", "2")
		cmd.Env = append(cmd.Env, env)
		if out := onTerminal(t, cmd); strings.Contains(out, sgr) || !strings.Contains(out, "✓") {
			t.Errorf("%s: %s", env, out)
		}
	}
}

// However the demo is ended, it ends at once, and no process of it is left.
func TestEndsAtOnce(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd, tmp := command(t, 0, "demo", "--step", "3c")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			awaitText(t, stdout, "every 2 s")
			if n := processes(tmp); n < 4 {
				t.Errorf("only %d processes are found: the search is broken", n)
			}
			begin := time.Now()
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_, _ = new(bytes.Buffer).ReadFrom(stdout) // till the last process has closed it
			_ = cmd.Wait()
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("ended after %s", took)
			}
			for processes(tmp) > 0 { // the kernel ends them after the first of them
				if time.Since(begin) > 3*time.Second {
					t.Fatalf("%d processes are left", processes(tmp))
				}
			}
			if sig == syscall.SIGKILL {
				return // nobody is left to remove the files
			}
			nothingLeft(t, tmp)
			if got, want := cmd.ProcessState.ExitCode(), 128+int(sig); got != want {
				t.Errorf("exit status %d, want %d", got, want)
			}
		})
	}
}

func awaitText(t *testing.T, r interface{ Read([]byte) (int, error) }, want string) {
	t.Helper()
	var seen []byte
	buf := make([]byte, 4096)
	for !strings.Contains(string(seen), want) {
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		if err != nil {
			t.Fatalf("%v before %q:\n%s", err, want, seen)
		}
	}
}

// processes counts those whose environment names the directory.
func processes(dir string) (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(dir)) {
			n++
		}
	}
	return n
}

func TestKeep(t *testing.T) {
	cmd, tmp := command(t, 0, "demo", "--step", "3", "--step", "3b", "--keep", "kept")
	out, errs, status := outcome(t, cmd)
	if status != 0 || errs != "" || !strings.Contains(out, "detour run -f kept/dynamodb --locality us-east1 -- curl") {
		t.Fatalf("status %d\n%s\n%s", status, errs, out)
	}
	if !strings.Contains(out, "── 3 · ") || !strings.Contains(out, "── 3b · ") || strings.Contains(out, "── 4 · ") {
		t.Errorf("other steps than those asked for:\n%s", out)
	}
	if err := os.CopyFS(filepath.Join(tmp, "want"), examples.FS); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("diff", "-r", filepath.Join(tmp, "want"), filepath.Join(tmp, "kept")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	again, _ := command(t, 0, "demo", "--step", "2", "--keep", filepath.Join(tmp, "kept"))
	if out, errs, status := outcome(t, again); status != 1 || !strings.Contains(errs, "exists") || out != "" {
		t.Errorf("into the same directory: status %d, %s%s", status, out, errs)
	}
}

// Where nobody can look on, nothing is said to be as it should.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	cmd, tmp := command(t, 0, "demo", "--step", "2")
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &errs
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "no space left") {
		t.Errorf("%v: %s", err, errs.String())
	}
	nothingLeft(t, tmp)
}

// Where there is no curl, a client of the demo's own asks.
func TestWithoutCurl(t *testing.T) {
	cmd, tmp := command(t, 0, "demo", "--step", "2,3r,7b")
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(sh, filepath.Join(bin, "sh")); err != nil {
		t.Fatal(err)
	}
	cmd.Env[0] = "PATH=" + bin
	out, errs, status := outcome(t, cmd)
	if status != 0 || errs != "" || !strings.Contains(out, "sh$ get http://mydb.com ") {
		t.Errorf("status %d\n%s\n%s", status, errs, out)
	}
	nothingLeft(t, tmp)
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--list"}, 0, "3c  the near region comes back (80 s; only when asked for)\n"},
		{[]string{"--step", "9"}, 2, `detour: --step: there is no step "9"; the steps are 1, 2, 3, 3b, 3r, 3c, 3d, 4, 4b, 5, 6, 7, 7b` + "\n"},
		{[]string{"--help"}, 0, "detour demo --step 3c\n"},
		{[]string{"more"}, 2, "unknown command"},
	} {
		cmd, _ := command(t, 0, append([]string{"demo"}, c.args...)...)
		out, errs, status := outcome(t, cmd)
		if status != c.status || !strings.Contains(out+errs, c.want) {
			t.Errorf("%v: status %d\n%s%s", c.args, status, out, errs)
		}
	}
}

// Every folder of the examples is there for the demo or stands in its README.
func TestExamples(t *testing.T) {
	readme, err := os.ReadFile("../../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := fs.ReadDir(examples.FS, ".")
	if err != nil || len(folders) < 5 {
		t.Fatal(folders, err)
	}
	for _, f := range folders {
		if !strings.Contains(string(readme), "| `"+f.Name()+"` |") {
			t.Errorf("examples/README.md does not tell of %s", f.Name())
		}
		out, err := exec.Command(binary, "analyze", "-f", "../../examples/"+f.Name(), "--locality", "us-east1").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "detour analyze: 0 errors") {
			t.Errorf("%s: %v\n%s", f.Name(), err, out)
		}
		if strings.Contains(f.Name(), "-https") {
			continue // has a rule of its own
		}
		rule, err := fs.ReadFile(examples.FS, f.Name()+"/2-destination-rule.yaml")
		first, _ := fs.ReadFile(examples.FS, "dynamodb/2-destination-rule.yaml")
		if err != nil || !bytes.Equal(rule, first) {
			t.Errorf("%s/2-destination-rule.yaml is not that of step 2 (%v)", f.Name(), err)
		}
	}
}
