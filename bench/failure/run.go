//go:build linux

package failure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// inside is the process in the namespace: a Config on standard input, a Result on standard output.
func inside() error {
	var c Config
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return err
	}
	if c.Rate <= 0 || c.After.Seconds() >= float64(c.Requests)/c.Rate {
		return errors.New("the fault would come after the last request")
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	r, err := run(c)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func run(c Config) (Result, error) {
	primary, err := startEndpoint("primary", PrimaryPort, c.Think)
	if err != nil {
		return Result{}, err
	}
	defer primary.kill()
	backup, err := startEndpoint("backup", BackupPort, c.Think)
	if err != nil {
		return Result{}, err
	}
	defer backup.kill()
	p, err := startProxy(c)
	if err != nil {
		return Result{}, err
	}
	defer p.stop()
	k := &client{addr: "127.0.0.1:" + strconv.Itoa(ProxyPort), host: c.Host, method: c.Method, patience: c.Patience}
	if err := p.ready(k); err != nil {
		return Result{}, err
	}
	done := make(chan error, 1)
	var faultAt time.Duration
	start := time.Now()
	outcomes := k.load(c, func() {
		var err error
		if c.Fault == Kill {
			primary.kill()
		} else {
			err = drop(c.Fault, PrimaryPort)
		}
		faultAt = time.Since(start)
		done <- err
	})
	if err := <-done; err != nil {
		return Result{}, err
	}
	if err := p.alive(); err != nil {
		return Result{}, err
	}
	p.stop()
	primary.kill()
	backup.kill()
	return tally(outcomes, append(primary.delivered(), backup.delivered()...), faultAt), nil
}

// proxy is the process that is measured.
type proxy struct {
	cmd  *exec.Cmd
	out  *os.File
	done chan struct{}
}

func startProxy(c Config) (*proxy, error) {
	f, err := os.Create(filepath.Join(c.Dir, "proxy.log"))
	if err != nil {
		return nil, err
	}
	p := &proxy{cmd: exec.Command("taskset", append([]string{"-c", c.ProxyCPU}, c.Proxy...)...), out: f, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = f, f, c.Dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		f.Close()
		return nil, err
	}
	go func() {
		defer close(p.done)
		defer f.Close()
		_ = p.cmd.Wait()
	}()
	return p, nil
}

// ready waits until the proxy gives requests to the primary endpoint.
func (p *proxy) ready(c *client) error {
	got := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := p.alive(); err != nil {
			return err
		}
		status, from, err := c.exchange("first", time.Now().Add(time.Second))
		if status == 200 && from == "primary" {
			return nil
		}
		got = fmt.Sprintf("status %d from %q, error %v", status, from, err)
	}
	return fmt.Errorf("the proxy does not serve: %s: %s", got, p.tail())
}

func (p *proxy) alive() error {
	select {
	case <-p.done:
		return errors.New("the proxy ended: " + p.tail())
	default:
		return nil
	}
}

func (p *proxy) stop() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// tail gives the end of what the proxy wrote.
func (p *proxy) tail() string {
	b, _ := os.ReadFile(p.out.Name())
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-1500):])
}
