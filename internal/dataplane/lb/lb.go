// Package lb owns what a request is given an endpoint by: Hosts, which outlive configuration, the immutable HostSet of one
// cluster version with its priorities and localities, and the balancing algorithms.
//
// Pick runs on the workers' event loops: it takes no lock and allocates nothing. Which hosts are ejected is decided in
// package outlier; DNS, EDS and the swap of HostSets are package cluster's business.
package lb

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"time"
)

// Errors of Pick.
var (
	// ErrNoHosts: the cluster has no endpoint at all (response flag UH, as in Envoy).
	ErrNoHosts = errors.New("no endpoints")
	// ErrNoHealthyHost: there are endpoints, none of which may be used (response flag UH).
	ErrNoHealthyHost = errors.New("no healthy upstream")
	// ErrAllTried: every endpoint that may be used is in PickInfo.Tried. A caller whose policy allows the same endpoint
	// again picks once more with Tried cut down.
	ErrAllTried = errors.New("every endpoint has been tried")
	// ErrOverflow: the circuit breaker is open (response flag UO).
	ErrOverflow = errors.New("circuit breaker open")
	// ErrNoOriginalDst: an ORIGINAL_DST cluster was picked from without an address (response flag UH).
	ErrNoOriginalDst = errors.New("no original destination")
)

// Picker chooses an endpoint for one attempt. It is safe for concurrent use, takes no lock and allocates nothing.
type Picker interface {
	Pick(*PickInfo) (Result, error)
}

// PickInfo is what a choice may depend on. The caller owns it and may reuse it once Pick has returned.
type PickInfo struct {
	// Rand gives uniformly distributed values; nil: the runtime's own per-thread generator.
	Rand func() uint64
	Now  time.Time
	// Tried lists the hosts that the request was given to before; all others come first. Empty: a first attempt.
	Tried []*Host
	// OriginalDst is where the application wanted to go (ORIGINAL_DST clusters).
	OriginalDst netip.AddrPort
	// Source is the client's address, which the PROXY protocol tells the endpoint.
	Source netip.AddrPort
	// Name is what a dynamic forward proxy sends to: the key that Cluster.Resolve gave.
	Name string
	// Hash is what the route's hash policies gave, for RING_HASH and MAGLEV; without HasHash they choose at random.
	Hash    uint64
	HasHash bool
	// Own says that OriginalDst is where a listener has its own socket: the PROXY protocol tells it, ORIGINAL_DST clusters
	// don't go there.
	Own bool
	// Exclude are the priorities that a retry leaves out while another is healthy (previous_priorities).
	Exclude Priorities
}

// Random gives a value of Rand.
func (p *PickInfo) Random() uint64 { return p.random() }

func (p *PickInfo) random() uint64 {
	if p.Rand != nil {
		return p.Rand()
	}
	return rand.Uint64()
}

// hash gives the request's hash, or a random one where it has none, as Envoy does.
func (p *PickInfo) hash() uint64 {
	if p.HasHash {
		return p.Hash
	}
	return p.random()
}

// Exhausted tells whether the request was given to the host before: to a logical host once for each of its addresses.
func (p *PickInfo) Exhausted(h *Host) bool {
	n := 0
	for _, t := range p.Tried {
		if t == h {
			n++
		}
	}
	return n > 0 && n >= h.Addresses()
}

// OutcomeKind says how an attempt ended.
type OutcomeKind uint8

const (
	// Cancelled: the client left, a hedge lost, or a relayed connection ended that was reported by Connected: counts nothing.
	Cancelled OutcomeKind = iota
	// Response: an HTTP response; Status says which, 5xx counts against the endpoint.
	Response
	// Success: a relayed connection that was served (no status); counts as a response without error.
	Success
	// ConnectFailed: refused, reset while connecting.
	ConnectFailed
	// ConnectTimeout: no answer to the connection attempt.
	ConnectTimeout
	// TLSFailed: the handshake failed, or the certificate is not the endpoint's.
	TLSFailed
	// Reset: the connection ended before the response did.
	Reset
	// Timeout: no response in time.
	Timeout
	// ProtocolError: what came back is not the protocol.
	ProtocolError
	// OurFault: no network, no route, no descriptors, no ports here (DESIGN.md E4): counts nothing against the endpoint.
	OurFault
)

var kindNames = [...]string{"cancelled", "response", "success", "connection failure", "connection timeout", "TLS failure",
	"connection termination", "response timeout", "protocol error", "local fault"}

// String gives the kind in words for log lines.
func (k OutcomeKind) String() string { return kindNames[k] }

// LocalOrigin tells whether the failure was seen here rather than answered by the endpoint: Envoy's locally originated
// failures.
func (k OutcomeKind) LocalOrigin() bool { return k >= ConnectFailed && k <= ProtocolError }

// Outcome is how one attempt ended.
type Outcome struct {
	Now    time.Time
	Kind   OutcomeKind
	Status int   // of a Response
	Err    error // of a failure; shown as the endpoint's last error
	// Addr is where a connection could not be made; of a logical host the one that it moves on from. Invalid: the one in use.
	Addr netip.AddrPort
}

// Failed tells whether the outcome counts against the endpoint when nothing but the status decides.
func (o *Outcome) Failed() bool {
	return o.Kind.LocalOrigin() || o.Kind == Response && o.Status >= 500
}

// Reason says what went wrong, for logs and the host's last error.
func (o *Outcome) Reason() string {
	switch {
	case o.Kind == Response:
		return "status " + strconv.Itoa(o.Status)
	case o.Err != nil:
		return o.Kind.String() + ": " + o.Err.Error()
	}
	return o.Kind.String()
}

// Reporter takes what became of a picked endpoint; package cluster implements it.
type Reporter interface {
	// Report judges the endpoint; see Result.Done.
	Report(*Endpoint, Outcome)
	// Connected says that a connection to the endpoint stands; see Result.Connected.
	Connected(e *Endpoint, now time.Time, final bool)
	// Release gives back the circuit breaker's request.
	Release()
}

// Debug makes a second Done of one Result panic; tests set it before anything runs.
var Debug bool

// Result is a picked endpoint with its bookkeeping. It is a value that lives in the attempt and must not be copied once
// Done may run on it.
type Result struct {
	Endpoint *Endpoint
	// LastResort: the endpoint is ejected, and was taken because every other had been tried (DESIGN.md E5).
	LastResort bool
	// Panic: the priority is below its panic threshold, so that health was not looked at.
	Panic bool

	reporter Reporter
	open     bool
	silent   bool
	release  bool
}

// Attach sets who is told of the outcome and opens the bookkeeping of one attempt: its request is counted as active until
// Done, which calls Release if release is set. Only package cluster and tests call it.
func (r *Result) Attach(rep Reporter, release bool) {
	r.reporter, r.open, r.release = rep, true, release
	st := &r.Endpoint.Stats
	st.RqTotal.Inc()
	st.RqActive.Inc()
}

// AttachSilent is Attach for something that is judged like an attempt but is no request, as a connection made to see
// whether the endpoint answers: it counts in no statistics and in no circuit breaker.
func (r *Result) AttachSilent(rep Reporter) { r.reporter, r.open, r.silent = rep, true, true }

// Connected tells that a connection to the endpoint stands (Envoy's LocalOriginConnectSuccess). final is for relayed
// connections, where no response will follow: it counts as a success; their Done is then Cancelled. May be called any
// number of times before Done.
func (r *Result) Connected(now time.Time, final bool) {
	if r.open && r.reporter != nil {
		r.reporter.Connected(r.Endpoint, now, final)
	}
}

// Done ends the attempt, exactly once. When the outcome ejects the endpoint, it is ejected before Done returns
// (DESIGN.md E1). A second call is ignored, or panics when Debug is set; so does Done on a Result that was never picked.
func (r *Result) Done(o Outcome) {
	if !r.open {
		if Debug {
			panic("lb: Done on an attempt that is not open")
		}
		return
	}
	r.open = false
	if !r.silent {
		r.count(&o)
	}
	if r.reporter != nil {
		r.reporter.Report(r.Endpoint, o)
		if r.release {
			r.reporter.Release()
		}
	}
}

func (r *Result) count(o *Outcome) {
	st := &r.Endpoint.Stats
	st.RqActive.Dec()
	switch {
	case o.Kind == Timeout:
		st.RqTimeout.Inc()
		st.RqError.Inc()
	case o.Failed():
		st.RqError.Inc()
	case o.Kind == Response, o.Kind == Success:
		st.RqSuccess.Inc()
	}
}

// Open tells whether the attempt still owes its Done.
func (r *Result) Open() bool { return r.open }
