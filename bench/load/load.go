//go:build linux

// Package load makes HTTP/1.1 load from one thread with its own epoll loop, cheap enough to saturate a proxy from a single
// core that it shares with the upstream. A closed loop keeps every connection busy; an open loop sends at a fixed rate and
// counts each answer's latency from the moment its request was due, not from when it could be sent, so that a proxy that
// stalls is not measured less often for it (no coordinated omission).
//
// Every answer's status and length are checked. Bodies are not copied out of the kernel (MSG_TRUNC), so their content must
// be checked beforehand.
package load

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what load to make.
type Config struct {
	Addr   string // IPv4 HOST:PORT to connect to
	Method string // GET if empty
	Path   string
	Host   string // the Host header
	Body   int    // bytes of request body; sent with the head in one write
	Tunnel string // if not empty, each connection begins with CONNECT to this authority, answered 200

	Serve string // HOST:PORT on which the generator is the upstream too, so that none competes with it for its CPU

	Conns    int
	Rate     float64 // requests a second, evenly spaced; 0: a closed loop
	Close    bool    // a new connection for each request, which the other side closes
	Hold     bool    // one request on each connection, which then stays open until Held is closed; no Duration
	Warmup   time.Duration
	Duration time.Duration

	Status int   // expected
	Length int64 // expected bytes of response body
	PIDs   []int // processes whose CPU time is taken
}

// Result is what was measured between the end of the warm-up and Duration later.
type Result struct {
	Requests int64 // answered as expected
	Bytes    int64 // received, heads included
	Failed   int64 // requests not answered as expected, or at all
	Failure  string
	Elapsed  time.Duration
	CPU      time.Duration // of PIDs, all their threads, user and system
	// Latencies of the open loop, sorted. Not written to JSON: P50 and its kin are.
	Latencies []time.Duration `json:"-"`

	P50, P99, P999, Max time.Duration
	Waited              int64 // requests of the open loop that found no idle connection when they were due
}

func (c *Config) check() error {
	switch {
	case c.Conns < 1:
		return errors.New("no connections")
	case c.Hold && (c.Rate != 0 || c.Close):
		return errors.New("connections that are held take neither Rate nor Close")
	case c.Rate < 0 || c.Rate > 1e7:
		return fmt.Errorf("a rate of %g", c.Rate)
	case c.Rate != 0 && c.Close:
		return errors.New("the open loop keeps its connections")
	case !c.Hold && c.Duration <= 0:
		return errors.New("no duration")
	}
	return nil
}

// request gives the bytes of one request.
func (c *Config) request() []byte {
	method := c.Method
	if method == "" {
		method = "GET"
	}
	b := []byte(method + " " + c.Path + " HTTP/1.1\r\nHost: " + c.Host + "\r\nUser-Agent: bench\r\nAccept: */*\r\n")
	if c.Close {
		b = append(b, "Connection: close\r\n"...)
	}
	if c.Body > 0 {
		b = append(b, "Content-Type: application/octet-stream\r\nContent-Length: "+strconv.Itoa(c.Body)+"\r\n"...)
	}
	b = append(b, "\r\n"...)
	for i := range c.Body {
		b = append(b, 'a'+byte(i%26))
	}
	return b
}

// Quantile gives the smallest latency that at least the share q of sorted latencies does not exceed; 0 for none.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func (r *Result) summarize() {
	slices.Sort(r.Latencies)
	r.P50, r.P99, r.P999 = Quantile(r.Latencies, 0.5), Quantile(r.Latencies, 0.99), Quantile(r.Latencies, 0.999)
	r.Max = Quantile(r.Latencies, 1)
}

// CPUTime gives the CPU time that a process and all its threads have used, those that ended included: the sum of utime
// and stime of /proc/PID/stat, in nanoseconds instead of ticks.
func CPUTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	clock := int32(^pid)<<3 | 2 // CPUCLOCK_SCHED of a process, as clock_getcpuclockid makes it
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// ShortSlice asks the kernel (6.12 and newer; older ones ignore it) to let a process run for 0.1 ms at a time, the shortest
// it allows, instead of some ms: load and upstream share a CPU, and would make each other's answers late. 0: this thread.
func ShortSlice(pid int) {
	_ = unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Runtime: 100_000}, 0)
}
