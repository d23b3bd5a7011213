//go:build linux

package failure

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	endpointHeader = "X-Endpoint"
	answer         = "healthy\n"
	listening      = "listening"
)

// serve is the process of an endpoint: it writes the id of each request to standard output as soon as its head has come,
// before it answers.
func serve(name, port, think string) error {
	pause, err := time.ParseDuration(think)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	fmt.Println(listening)
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = os.Stdout.WriteString(r.Header.Get(idHeader) + "\n")
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(pause)
		w.Header().Set(endpointHeader, name)
		_, _ = io.WriteString(w, answer)
	}))
}

// endpoint is such a process, seen by who started it.
type endpoint struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	ids []string
	eof chan struct{}
}

func startEndpoint(name string, port int, think time.Duration) (*endpoint, error) {
	e := &endpoint{cmd: exec.Command("/proc/self/exe", endpointVerb, name, strconv.Itoa(port), think.String()), eof: make(chan struct{})}
	e.cmd.Stderr = os.Stderr
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != listening {
		return nil, fmt.Errorf("%s endpoint: %w", name, e.cmd.Wait())
	}
	go func() {
		defer close(e.eof)
		for lines.Scan() {
			e.mu.Lock()
			e.ids = append(e.ids, strings.Clone(lines.Text()))
			e.mu.Unlock()
		}
	}()
	return e, nil
}

// kill ends the process at once. What it wrote until then is not lost.
func (e *endpoint) kill() {
	_ = e.cmd.Process.Kill()
	<-e.eof
	_ = e.cmd.Wait()
}

// delivered gives the ids of all requests that reached the endpoint, in order; it must have been killed.
func (e *endpoint) delivered() []string {
	<-e.eof
	return e.ids
}
