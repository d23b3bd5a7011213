//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// proc is a process that the harness started.
type proc struct {
	cmd  *exec.Cmd
	name string
	out  string // file with its standard error
	done chan struct{}
	err  error // valid after done
}

// children are the processes that live. They die with the harness: killAll at its end, Pdeathsig if it is killed.
type children struct {
	mu    sync.Mutex
	procs map[*proc]bool
}

// start runs a command on the given CPUs ("0", "0,1"). Its standard output goes to stdout, or with its standard error to a
// file in the temporary folder.
func (h *harness) start(cpus, stdout string, argv ...string) (*proc, error) {
	name := filepath.Base(argv[0])
	errFile, err := os.CreateTemp(h.dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer errFile.Close()
	argv = pinned(cpus, argv)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr, cmd.Stdout = errFile, errFile
	cmd.Dir = h.dir
	if stdout != "" {
		f, err := os.OpenFile(stdout, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cmd.Stdout = f
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p := &proc{cmd: cmd, name: name, out: errFile.Name(), done: make(chan struct{})}
	h.children.mu.Lock()
	defer h.children.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	h.children.procs[p] = true
	go func() {
		p.err = cmd.Wait()
		close(p.done)
		h.children.mu.Lock()
		delete(h.children.procs, p)
		h.children.mu.Unlock()
	}()
	return p, nil
}

// pinned makes a command run on the given CPUs.
func pinned(cpus string, argv []string) []string {
	return append([]string{"taskset", "-c", cpus}, argv...)
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

// stop kills the process and its group, and waits for its end.
func (p *proc) stop() {
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
}

func (c *children) killAll() {
	c.mu.Lock()
	all := make([]*proc, 0, len(c.procs))
	for p := range c.procs {
		all = append(all, p)
	}
	c.mu.Unlock()
	for _, p := range all {
		p.stop()
	}
}

// tail gives the end of what the process wrote to its standard error.
func (p *proc) tail() string {
	b, _ := os.ReadFile(p.out)
	b = bytes.TrimSpace(b)
	if len(b) > 1500 {
		b = b[len(b)-1500:]
	}
	return string(b)
}

// ready waits until every address accepts connections.
func (p *proc) ready(ctx context.Context, within time.Duration, addrs ...string) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var d net.Dialer
	for _, a := range addrs {
		for {
			c, err := d.DialContext(ctx, "tcp4", a)
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-p.done:
				return fmt.Errorf("%s ended: %v: %s", p.name, p.err, p.tail())
			case <-ctx.Done():
				return fmt.Errorf("%s does not listen on %s: %w: %s", p.name, a, ctx.Err(), p.tail())
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	return nil
}

// rss gives the resident memory of the process and its children, in bytes.
func (p *proc) rss() (int64, error) {
	pids, err := p.pids()
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		kb := int64(-1)
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				if kb, err = strconv.ParseInt(strings.Fields(rest)[0], 10, 64); err != nil {
					return 0, err
				}
			}
		}
		if kb < 0 {
			return 0, errors.New("no VmRSS in /proc/PID/status")
		}
		total += kb << 10
	}
	return total, nil
}

// pids gives the process and its children: nginx with more than one worker has some.
func (p *proc) pids() ([]int, error) {
	out := []int{p.pid()}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.pid()))
	if err != nil {
		return nil, err
	}
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue // that thread ended
		}
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return nil, err
			}
			out = append(out, pid)
		}
	}
	return out, nil
}

// freePorts gives ports of loopback that nobody listens on.
func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}
