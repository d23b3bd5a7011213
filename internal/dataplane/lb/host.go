package lb

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/stats"
)

// HostStats are the counters of one host, under Envoy's names in /clusters. CxTotal, CxActive and CxConnectFail are the
// pools' to keep; the others are kept by Pick and Done.
type HostStats = stats.Host

// Host is one address that can serve a name. It belongs to one cluster, is shared by all workers, and outlives
// configuration (DESIGN.md rule 2): counters, health and pooled connections hang on it. The exported fields never change.
type Host struct {
	Address netip.AddrPort // zero for a unix socket and for a logical host, whose addresses change: see Target
	Path    string         // unix socket; empty otherwise
	// Hostname is Envoy's host.hostname: the endpoint's own, else its DNS name. What auto_host_rewrite and auto_host_sni use.
	Hostname string
	// Name is the configured "name:port", the key under which health survives a change of the name's addresses (E5).
	Name string
	// Cluster is the name of the cluster that the host belongs to.
	Cluster string

	Stats  HostStats
	Health Health

	flags   atomic.Uint32
	connect atomic.Int64 // EWMA, ns
	added   atomic.Int64 // UnixNano
	targets atomic.Pointer[targets]
	lastErr atomic.Pointer[failure]
}

type failure struct {
	text string
	at   time.Time
}

const (
	flagEjected = 1 << iota
	flagSuspect
	flagRemoved
)

// Health is what the outlier detector keeps on a host. The counters are atomics that workers touch; the rest is guarded by
// the detector's lock, but for the two times, which are also read without it.
type Health struct {
	Consecutive5xx     atomic.Uint32
	ConsecutiveGateway atomic.Uint32
	ConsecutiveLocal   atomic.Uint32

	EjectedAt    atomic.Int64 // UnixNano of the last ejection; 0: never
	EjectedUntil atomic.Int64 // UnixNano from when a sweep may end it

	Jitter     time.Duration
	Backoff    uint32        // Envoy's ejectTimeBackoff: the multiplier of the base ejection time
	Ejections  atomic.Uint32 // in the host's life
	At         time.Time     // of the last ejection, with its monotonic reading
	LocalCause bool          // the last ejection was for failures seen here
	FailedAt   time.Time     // last local-origin failure
	Forgiven   uint64        // 1 + the spell in which an ejection was taken back (E4); 0: never
	Episode    uint64        // the spell without any success in which FailedAt lies
}

// ResetCounters clears the consecutive counters.
func (h *Health) ResetCounters() {
	h.Consecutive5xx.Store(0)
	h.ConsecutiveGateway.Store(0)
	h.ConsecutiveLocal.Store(0)
}

// String gives the address as logs and /clusters have it.
func (h *Host) String() string {
	if h.Path != "" {
		return h.Path
	}
	return h.Target().String()
}

// Ejected tells whether outlier detection holds the host ejected (Envoy's failed_outlier_check).
func (h *Host) Ejected() bool { return h.flags.Load()&flagEjected != 0 }

// Suspect tells whether a connection attempt to the host is unanswered, so that others go first (DESIGN.md E3).
func (h *Host) Suspect() bool { return h.flags.Load()&flagSuspect != 0 }

// Removed tells whether the host has left its cluster: its idle connections have no future.
func (h *Host) Removed() bool { return h.flags.Load()&flagRemoved != 0 }

// SetSuspect marks the host, or clears the mark once it answered or was judged.
func (h *Host) SetSuspect(on bool) { h.set(flagSuspect, on) }

// SetEjected is the outlier detector's; it holds its lock.
func (h *Host) SetEjected(on bool) { h.set(flagEjected, on) }

// SetRemoved is the cluster's.
func (h *Host) SetRemoved(on bool) { h.set(flagRemoved, on) }

func (h *Host) set(flag uint32, on bool) {
	if h.flags.Load()&flag != 0 == on { // spares the write that would take the cache line from the other workers
		return
	}
	if on {
		h.flags.Or(flag)
	} else {
		h.flags.And(^flag)
	}
}

// AddedAt gives when the host joined its cluster, in UnixNano: slow start counts from there.
func (h *Host) AddedAt() int64 { return h.added.Load() }

// SetAddedAt is the cluster's.
func (h *Host) SetAddedAt(now time.Time) { h.added.Store(now.UnixNano()) }

// targets are the addresses that a logical host stands for, and which of them is in use.
type targets struct {
	addrs []netip.AddrPort
	at    atomic.Uint32
}

// Target is where new connections to the host go: Address, or the address in use of a logical host.
func (h *Host) Target() netip.AddrPort {
	if t := h.targets.Load(); t != nil {
		return t.addrs[int(t.at.Load())%len(t.addrs)]
	}
	return h.Address
}

// SetTargets makes the host a logical one (LOGICAL_DNS, dynamic forward proxy): connections made from now on go to the first
// of the addresses, of which there is at least one; those that stand are kept. It is the cluster's.
func (h *Host) SetTargets(addrs []netip.AddrPort) {
	if t := h.targets.Load(); t == nil || !slices.Equal(t.addrs, addrs) {
		h.targets.Store(&targets{addrs: addrs})
	}
}

// MoveOn makes new connections of a logical host go to its next address, because the one in use can't be reached.
func (h *Host) MoveOn() {
	if t := h.targets.Load(); t != nil {
		t.at.Add(1)
	}
}

// MoveOnFrom is MoveOn where that is the address in use: others may have moved on before.
func (h *Host) MoveOnFrom(addr netip.AddrPort) {
	t := h.targets.Load()
	if t == nil {
		return
	}
	if at := t.at.Load(); t.addrs[int(at)%len(t.addrs)] == addr {
		t.at.CompareAndSwap(at, at+1)
	}
}

// Addresses counts what may be tried of a host.
func (h *Host) Addresses() int {
	if t := h.targets.Load(); t != nil {
		return len(t.addrs)
	}
	return 1
}

// UsualConnect gives the usual time that a connection to the host takes to be made; 0: none was made yet.
func (h *Host) UsualConnect() time.Duration { return time.Duration(h.connect.Load()) }

// ObserveConnect adds one connection time to the average, weighing it with 1/8 (as TCP does with round trips, RFC 6298
// §2.3). A racing update by another worker may be lost.
func (h *Host) ObserveConnect(d time.Duration) {
	old := h.connect.Load()
	if old == 0 {
		h.connect.Store(max(int64(d), 1))
		return
	}
	h.connect.Store(max(old+(int64(d)-old)/8, 1))
}

// LastError gives the host's last failure and when it was; empty if it never failed. It stays after a success.
func (h *Host) LastError() (text string, at time.Time) {
	if f := h.lastErr.Load(); f != nil {
		return f.text, f.at
	}
	return "", time.Time{}
}

// SetLastError keeps the text of a failure, cut at 256 bytes.
func (h *Host) SetLastError(text string, at time.Time) {
	if len(text) > 256 {
		text = strings.ToValidUTF8(text[:256], "")
	}
	h.lastErr.Store(&failure{text, at})
}

// EjectedFor gives how long the host has been ejected; 0: it is not.
func (h *Host) EjectedFor(now time.Time) time.Duration {
	if !h.Ejected() {
		return 0
	}
	return max(time.Duration(now.UnixNano()-h.Health.EjectedAt.Load()), 0)
}

// EjectedLeft gives how long the host will stay ejected, at least; the ejection ends with the first sweep after that. 0: it
// is not ejected, or the next sweep ends it.
func (h *Host) EjectedLeft(now time.Time) time.Duration {
	if !h.Ejected() {
		return 0
	}
	return max(time.Duration(h.Health.EjectedUntil.Load()-now.UnixNano()), 0)
}

// Endpoint is a Host in one version of a cluster: what configuration says of it. It is immutable.
type Endpoint struct {
	*Host
	Locality       *corev3.Locality // nil: none given
	LocalityWeight uint32           // LocalityLbEndpoints.load_balancing_weight; 0: not set
	Priority       uint32
	Weight         uint32 // ≥ 1
	// Status is what EDS says; endpoints that are UNHEALTHY, DRAINING or TIMEOUT are not picked outside panic. DEGRADED
	// counts as healthy.
	Status   corev3.HealthStatus
	Metadata *corev3.Metadata
}

// Usable tells whether the endpoint may be picked outside panic.
func (e *Endpoint) Usable() bool { return !e.Ejected() && e.EDSHealthy() }

// EDSHealthy tells whether EDS allows the endpoint to be picked outside panic.
func (e *Endpoint) EDSHealthy() bool {
	switch e.Status {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT:
		return false
	}
	return true
}

// LocalityName writes a locality as Istio does, "region/zone/subzone" without empty ends; "" for none.
func LocalityName(l *corev3.Locality) string {
	if l == nil {
		return ""
	}
	s := l.GetRegion()
	if l.GetZone() != "" || l.GetSubZone() != "" {
		s += "/" + l.GetZone()
	}
	if l.GetSubZone() != "" {
		s += "/" + l.GetSubZone()
	}
	return s
}
