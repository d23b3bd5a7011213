//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"detour.dev/detour/bench/load"
)

var wrkRequests = regexp.MustCompile(`(\d+) requests in`)
var wrkTrouble = regexp.MustCompile(`(?m)^\s*(Socket errors:|Non-2xx).*$`)

// wrk makes the load of a closed loop of GETs with wrk, so that our own generator can be held against a known one.
func (h *harness) wrk(ctx context.Context, c load.Config) (load.Result, error) {
	args := []string{"-c", h.loadCPU, "wrk", "-t1", "-c" + strconv.Itoa(c.Conns), "-d" + strconv.Itoa(max(1, int(c.Duration.Seconds()))) + "s", "-H", "Host: " + c.Host}
	if c.Close {
		args = append(args, "-H", "Connection: close")
	}
	args = append(args, "http://"+c.Addr+c.Path)
	before, err := load.CPUTime(c.PIDs[0])
	if err != nil {
		return load.Result{}, err
	}
	start := time.Now()
	out, err := exec.CommandContext(ctx, "taskset", args...).CombinedOutput()
	if err != nil {
		return load.Result{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	elapsed := time.Since(start)
	after, err := load.CPUTime(c.PIDs[0])
	if err != nil {
		return load.Result{}, err
	}
	m := wrkRequests.FindSubmatch(out)
	if m == nil || wrkTrouble.Match(out) {
		return load.Result{}, fmt.Errorf("wrk: %s", out)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	return load.Result{Requests: n, Bytes: n * c.Length, CPU: after - before, Elapsed: elapsed}, err
}
