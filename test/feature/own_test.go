//go:build linux

package feature

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// ownSidecar gives listeners sockets of their own: a path (SCRATCH/s), an abstract name, an HTTP proxy, and the service's
// own port on another address. One port is below those that anybody may bind.
const ownSidecar = `
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  egress:
  - {bind: "unix://SCRATCH/s", port: {protocol: HTTP, name: path}, hosts: ["*/*"]}
  - {bind: "unix://@detour own", port: {protocol: HTTP, name: abstract}, hosts: ["*/*"]}
  - {captureMode: NONE, port: {number: 312, protocol: HTTP_PROXY, name: proxy}, hosts: ["*/*"]}
  - {captureMode: NONE, bind: 127.0.0.3, hosts: ["*/*"]}
`

var ownRequests = [][]string{
	{"curl", "-sS", "--unix-socket", "SCRATCH/s", "http://mydb.com/"},
	{"curl", "-sS", "--abstract-unix-socket", "detour own", "http://mydb.com/"},
	{"curl", "-sS", "--proxy", "http://127.0.0.1:312", "http://mydb.com/"},
	{"curl", "-sS", "-H", "host: mydb.com", "http://127.0.0.3/"},
}

func ownWorld(t *testing.T) (w *world, requests [][]string) {
	w = running(t)
	w.write(entryFile, w.walkthrough(step1)+strings.ReplaceAll(ownSidecar, "SCRATCH", w.scratch))
	for _, r := range ownRequests {
		requests = append(requests, strings.Split(strings.ReplaceAll(strings.Join(r, "\x00"), "SCRATCH", w.scratch), "\x00"))
	}
	return w, requests
}

func (w *world) noSocket() {
	w.t.Helper()
	if _, err := os.Lstat(w.scratch + "/s"); !os.IsNotExist(err) {
		w.t.Errorf("the socket is still there: %v", err)
	}
}

// TestRunOwnSockets: a Sidecar's own sockets are in the command's namespace, for an ordinary user too.
func TestRunOwnSockets(t *testing.T) {
	for name, as := range who {
		t.Run(name, func(t *testing.T) {
			w, requests := ownWorld(t)
			if err := os.Chmod(w.scratch, 0o777); err != nil {
				t.Fatal(err)
			}
			for _, r := range requests {
				w.want(as(w, w.runCommand(nil, r...)), 0, fromEast, "")
				w.noSocket()
			}
		})
	}
}

// TestProxyOwnSockets: on the host for proxy, until it ends; what was left behind is taken over, what is in use is an
// error that names the Sidecar's line.
func TestProxyOwnSockets(t *testing.T) {
	w, requests := ownWorld(t)
	p := w.proxyIn("us-east1")
	for _, r := range requests {
		w.want(exec.Command(r[0], r[1:]...), 0, fromEast, "")
	}
	other := w.start(detour("run", "-f", w.dir, "--locality", "us-east1", "--", "true"))
	if status := other.wait(); status != 125 || !strings.Contains(other.err(), "Sidecar default/default: spec.egress[0]: can't listen on unix://"+w.scratch+"/s: address already in use") {
		t.Errorf("status %d: %s", status, other.err())
	}
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
	if _, err := os.Lstat(w.scratch + "/s"); err != nil {
		t.Fatalf("killed: %v", err)
	}
	w.want(w.asRoot(w.runCommand(nil, requests[0]...)), 0, fromEast, "")
	w.noSocket()
}
