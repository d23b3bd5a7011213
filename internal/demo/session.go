package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// session is `detour run … -- sh`: the application is a shell that is told what to ask for.
type session struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	curl  bool

	mu   sync.Mutex
	logs bytes.Buffer // detour's own standard error, guarded by mu
}

// answer is what came back of one request.
type answer struct {
	body string // or curl's own complaint
	code int    // HTTP status, 0 without
	took time.Duration
	exit int
}

// endMark is what the shell prints when a command has ended, before its status.
const endMark = "@@ "

// environment is that of the application and of detour: nothing of the user's but where programs are.
func (w *world) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + w.dir,
		"XDG_RUNTIME_DIR=" + filepath.Join(w.dir, "run"), "XDG_STATE_HOME=" + filepath.Join(w.dir, "state"),
		"SSL_CERT_FILE=" + w.trust, "CURL_CA_BUNDLE=" + w.trust,
		"GODEBUG=netdns=go", // names are asked for in DNS, not from a daemon of the host
	}
}

// startSession runs a shell under detour; args are those of `detour run` before "--".
func (w *world) startSession(binary string, args []string) (*session, error) {
	if err := os.MkdirAll(filepath.Join(w.dir, "run"), 0o700); err != nil {
		return nil, err
	}
	s := &session{cmd: exec.Command(binary, slices.Concat(args, []string{"--", "sh"})...)}
	_, err := exec.LookPath("curl")
	s.curl = err == nil
	s.cmd.Dir, s.cmd.Env = w.dir, w.environment()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is the outer process's
	s.cmd.Stderr = s
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(stdout)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if _, _, err := s.tell(":"); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// Write takes detour's standard error.
func (s *session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs.Write(p)
}

// said gives the lines of detour's own that have come since the last call.
func (s *session) said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	whole := s.logs.Bytes()[:bytes.LastIndexByte(s.logs.Bytes(), '\n')+1]
	text := string(s.logs.Next(len(whole)))
	return split(text)
}

// tell has the shell run a command, and gives what it printed and its status.
func (s *session) tell(command string) (out []string, status int, err error) {
	if _, err := fmt.Fprintf(s.stdin, "%s\necho '%s'$?\n", command, endMark); err != nil {
		return nil, 0, s.gone(err)
	}
	for {
		l, err := s.out.ReadString('\n')
		if err != nil {
			return out, 0, s.gone(err)
		}
		l = strings.TrimSuffix(l, "\n")
		if mark, ok := strings.CutPrefix(l, endMark); ok {
			status, err = strconv.Atoi(mark)
			return out, status, err
		}
		out = append(out, l)
	}
}

func (s *session) gone(err error) error {
	_ = s.stdin.Close()
	_ = s.cmd.Wait()
	return fmt.Errorf("detour run ended (%v, %w): %s", s.cmd.ProcessState, err, strings.Join(s.said(), "; "))
}

// get asks for a URL once.
func (s *session) get(binary, url string) (answer, error) {
	command := fmt.Sprintf(`curl -q -sS --max-time 10 -w '\n%%{http_code} %%{time_total}\n' '%s' </dev/null 2>&1`, url)
	if !s.curl {
		command = fmt.Sprintf("'%s' demo get '%s' </dev/null 2>&1", binary, url)
	}
	out, status, err := s.tell(command)
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(out, status), nil
}

// parseAnswer reads a body, and the line with HTTP status and seconds that follows it.
func parseAnswer(out []string, status int) answer {
	a := answer{exit: status}
	if n := len(out); n > 0 {
		var seconds float64
		if _, err := fmt.Sscanf(out[n-1], "%d %f", &a.code, &seconds); err == nil {
			a.took = time.Duration(seconds * float64(time.Second))
			out = out[:n-1]
		}
	}
	for _, l := range out {
		// curl adds advice after its complaint
		if strings.HasPrefix(l, "More details here:") {
			break
		}
		if l != "" {
			a.body += l + "\n"
		}
	}
	a.body = strings.TrimSpace(a.body)
	return a
}

// close ends the shell, and with it the run.
func (s *session) close() {
	_ = s.stdin.Close()
	kill := time.AfterFunc(3*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = io.Copy(io.Discard, s.out)
	_ = s.cmd.Wait()
}

// dump asks the run's own admin API for its configuration.
func (w *world) dump(ctx context.Context, s *session) (string, error) {
	path := filepath.Join(w.dir, "run", "detour", strconv.Itoa(s.cmd.Process.Pid)+".sock")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/config_dump", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// detour runs another verb of the binary in the demo's world and gives both its outputs.
func (w *world) detour(binary string, args ...string) (out []string, status int, err error) {
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = w.dir, w.environment()
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, err = exit.ExitCode(), nil
	}
	return split(string(b)), status, err
}
