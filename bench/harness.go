//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"detour.dev/detour/bench/load"
)

// harness holds what all rows use.
type harness struct {
	opts     options
	dir      string // temporary; all that is not a result is below it
	tools    map[string]string
	children children

	proxyCPU, loadCPU string
	files             int // open files a process may have
	maxConn           int // connections a proxy is set up for
	streamModule      string
	streamBuiltIn     bool

	upstream *proc
	up       upstreamPorts
	ca       string
	answers  map[string]answer

	haproxyMax float64 // requests/s, once measured
}

func newHarness(o options) (*harness, error) {
	h := &harness{opts: o, children: children{procs: map[*proc]bool{}}}
	var err error
	if h.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	cpus := strings.Split(o.cpus, ",")
	if len(cpus) != 2 {
		return nil, fmt.Errorf("--cpus %q: not two CPUs", o.cpus)
	}
	h.proxyCPU, h.loadCPU = cpus[0], cpus[1]
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	h.files = int(min(limit.Max, 1<<20))
	h.maxConn = min(h.files-500, 20000)
	return h, h.findTools()
}

// findTools finds the programs that are measured.
func (h *harness) findTools() error {
	h.tools = map[string]string{detour: h.opts.detour, base: h.opts.base}
	for _, name := range []string{haproxy, nginx, envoy} {
		h.tools[name] = os.Getenv(strings.ToUpper(name))
		for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin", peers) {
			file := filepath.Join(dir, name)
			if st, err := os.Stat(file); h.tools[name] == "" && err == nil && !st.IsDir() {
				h.tools[name] = file
			}
		}
	}
	if h.tools[nginx] == "" {
		return errors.New("nginx is not installed, and serves as upstream (bench/install does it)")
	}
	if h.tools[detour] == "" {
		h.tools[detour] = filepath.Join(h.dir, "detour")
		out, err := exec.Command("go", "build", "-o", h.tools[detour], "detour.dev/detour/cmd/detour").CombinedOutput()
		if err != nil {
			return fmt.Errorf("building detour: %w: %s", err, out)
		}
	}
	v, _ := exec.Command(h.tools[nginx], "-V").CombinedOutput()
	h.streamBuiltIn = strings.Contains(string(v), "--with-stream ")
	if m := "/usr/lib/nginx/modules/ngx_stream_module.so"; !h.streamBuiltIn {
		if _, err := os.Stat(m); err == nil {
			h.streamModule = m
		}
	}
	return nil
}

// peers is where bench/install puts what is not packaged for the system.
var peers = filepath.Join(os.TempDir(), "detour-bench-peers", "bin")

func (h *harness) tool(name string) string { return h.tools[name] }

func (h *harness) close() {
	h.children.killAll()
	_ = os.RemoveAll(h.dir)
}

// load makes load in a process of its own, on the load's CPU unless cpus says otherwise.
func (h *harness) load(ctx context.Context, cpus string, c load.Config) (load.Result, error) {
	l, err := h.startLoad(ctx, cpus, c)
	if err != nil {
		return load.Result{}, err
	}
	defer l.stop()
	return l.result(c.Warmup + c.Duration + 15*time.Second)
}

// loader is a running load process.
type loader struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func (h *harness) startLoad(ctx context.Context, cpus string, c load.Config) (*loader, error) {
	if cpus == "" {
		cpus = h.loadCPU
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argv := pinned(cpus, []string{self, loadVerb})
	l := &loader{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...)}
	// A garbage collection or a preemption would look like a slow proxy.
	l.cmd.Env = append(os.Environ(), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	l.cmd.Stderr = &l.stderr
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.stdout = bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(l.stdin).Encode(c); err != nil {
		l.stop()
		return nil, err
	}
	return l, nil
}

// result waits for the result line. Failed requests are an error.
func (l *loader) result(within time.Duration) (load.Result, error) {
	var r load.Result
	timer := time.AfterFunc(within, func() { _ = l.cmd.Process.Kill() })
	line, err := l.stdout.ReadBytes('\n')
	timer.Stop()
	if err != nil {
		_ = l.cmd.Wait()
		return r, fmt.Errorf("load: %s", strings.TrimSpace(l.stderr.String()+" "+err.Error()))
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("load: %w", err)
	}
	if r.Failed > 0 {
		return r, fmt.Errorf("%d of %d requests failed: %s", r.Failed, r.Failed+r.Requests, r.Failure)
	}
	return r, nil
}

// stop ends the load and lets held connections go.
func (l *loader) stop() {
	_ = l.stdin.Close()
	timer := time.AfterFunc(5*time.Second, func() { _ = l.cmd.Process.Kill() })
	defer timer.Stop()
	_ = l.cmd.Wait()
}

const loadVerb = "load-process"

// loadProcess is the load's own process: a Config on standard input, a Result on standard output.
func loadProcess() error {
	var c load.Config
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&c); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, io.MultiReader(in.Buffered(), os.Stdin))
		cancel()
	}()
	out := json.NewEncoder(os.Stdout)
	if c.Hold {
		_, err := load.Run(ctx, c, func(r load.Result) { _ = out.Encode(r) })
		return err
	}
	r, err := load.Run(ctx, c, nil)
	if err != nil {
		return err
	}
	return out.Encode(r)
}

// check asks once and compares status, length and content.
func (h *harness) check(ctx context.Context, p *proxy, method, path, want string, header http.Header) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader(strings.Repeat("x", 4096))
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+want+path, body)
	if err != nil {
		return err
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialProxy(ctx, p)
	}}
	defer t.CloseIdleConnections()
	res, err := t.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("%s: %s %s: %w", p.name, method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s: %s %s: %w", p.name, method, path, err)
	}
	if res.StatusCode != 200 || sha256.Sum256(b) != h.answers[path].hash {
		return fmt.Errorf("%s: %s %s: status %d, %d bytes, or other bytes than those of the upstream: %.200q", p.name, method, path, res.StatusCode, len(b), b)
	}
	for k := range header {
		if got := res.Header.Get(k); got != header.Get(k) {
			return fmt.Errorf("%s: %s %s: %s is %q, not %q", p.name, method, path, k, got, header.Get(k))
		}
	}
	return nil
}

// dialProxy connects to a proxy, through its tunnel where it needs one.
func dialProxy(ctx context.Context, p *proxy) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", p.addr)
	if err != nil || p.tunnel == "" {
		return c, err
	}
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", p.tunnel, p.tunnel); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	// Byte by byte: what follows the head is not ours.
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b[0]) {
		if _, err := c.Read(b); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if !bytes.Contains(head[:min(len(head), 13)], []byte(" 200")) {
		return nil, errors.Join(fmt.Errorf("CONNECT: %q", head), c.Close())
	}
	return c, nil
}
