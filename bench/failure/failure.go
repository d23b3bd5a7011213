//go:build linux

// Package failure measures what clients see of a proxy whose primary endpoint fails under load: its process is killed, or
// its packets vanish in one direction. Everything runs in a network namespace of its own, as processes: the proxy, a
// primary and a backup endpoint that log the ids of all requests that reach them, and the load.
//
// The load is an open loop: requests are due at a fixed rate, whatever became of the ones before, and latencies are counted
// from when a request was due.
package failure

import (
	"slices"
	"time"
)

// The ports in the namespace, which nobody else uses.
const (
	ProxyPort   = 18080
	AdminPort   = 18081
	PrimaryPort = 18082
	BackupPort  = 18083
)

// Fault is what happens to the primary endpoint.
type Fault string

// The faults.
const (
	Kill     Fault = "kill" // SIGKILL to its process
	DropTo   Fault = "to"   // packets to it vanish
	DropFrom Fault = "from" // packets from it vanish
)

// Config is one measurement.
type Config struct {
	Proxy    []string // command line; it listens on ProxyPort and gives all requests for Host to PrimaryPort, else BackupPort
	ProxyCPU string   // as taskset -c has it
	Dir      string   // for the proxy's output
	Host     string

	Fault    Fault
	After    time.Duration // when the fault begins, from the first request on
	Method   string        // GET, or POST with a small body
	Rate     float64       // requests a second
	Requests int
	Think    time.Duration // what an endpoint takes to answer
	Patience time.Duration // how long a client waits, from when the request was due
}

// Result is what became of the requests.
type Result struct {
	Requests int
	Failed   int // without an answer of status 200
	// FailedLate are those due more than a moment after the fault was complete; of a killed process nothing can have been
	// written to it any more.
	FailedLate int
	NoAnswer   int         // failed without any answer in time
	Statuses   map[int]int // answers by status
	Twice      int         // requests that reached endpoints more than once
	// Lost are failed requests that reached no endpoint.
	Lost int

	Slowest       time.Duration // of all, from when it was due; Patience where there was no answer
	SlowestFailed time.Duration
	P99           time.Duration
	Over50        int // requests that took more than 50 ms
	Over500       int // and 500 ms
	// Late is how much too late the load itself sent a request at worst; it is part of the latencies.
	Late time.Duration
	// Example is what one of those without an answer saw.
	Example string
}

// moment is how long after a kill a request may have been written before the reset came back.
const moment = 5 * time.Millisecond

// outcome is what became of one request.
type outcome struct {
	id     string
	due    time.Duration // since the first was due
	late   time.Duration // sent so long after
	took   time.Duration // from due on
	status int           // 0: no answer
	err    error
}

// tally sums up. delivered are the ids as the endpoints received them; faultAt is when the fault was complete.
func tally(outcomes []outcome, delivered []string, faultAt time.Duration) Result {
	times := map[string]int{}
	for _, id := range delivered {
		times[id]++
	}
	r := Result{Requests: len(outcomes), Statuses: map[int]int{}}
	var took []time.Duration
	for _, o := range outcomes {
		took = append(took, o.took)
		r.Late = max(r.Late, o.late)
		if times[o.id] > 1 {
			r.Twice++
		}
		if o.took > 50*time.Millisecond {
			r.Over50++
		}
		if o.took > 500*time.Millisecond {
			r.Over500++
		}
		if o.status != 0 {
			r.Statuses[o.status]++
		}
		if o.status != 200 {
			r.fail(o, faultAt, times[o.id])
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		r.Slowest, r.P99 = took[len(took)-1], took[len(took)*99/100]
	}
	return r
}

func (r *Result) fail(o outcome, faultAt time.Duration, delivered int) {
	r.Failed++
	r.SlowestFailed = max(r.SlowestFailed, o.took)
	if o.due > faultAt+moment {
		r.FailedLate++
	}
	if delivered == 0 {
		r.Lost++
	}
	if o.status == 0 {
		r.NoAnswer++
		if o.err != nil {
			r.Example = o.err.Error()
		}
	}
}
