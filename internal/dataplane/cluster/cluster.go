// Package cluster owns the clusters of the data plane: it compiles them from a snapshot, swaps them, and keeps what
// outlives configuration: Hosts with their health, DNS watches, counters, circuit breakers and budgets.
//
// Two things stand for one cluster. A Cluster is one version of its configuration; requests in flight keep theirs. Behind
// it a live, shared by all versions, keeps the hosts and the rest; only its current version learns of new addresses, but
// hosts are shared, so that an older version still sees who is ejected.
package cluster

import (
	"math"
	"sync/atomic"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/stats"
)

// Cluster is one version of one cluster. It is safe for concurrent use; Pick takes no lock and allocates nothing (but for
// ORIGINAL_DST, which does once for each connection).
type Cluster struct {
	cfg  *Config
	live *live
	set  atomic.Pointer[lb.HostSet]
}

// Config gives the version's configuration.
func (c *Cluster) Config() *Config { return c.cfg }

// Name gives the cluster's name.
func (c *Cluster) Name() string { return c.cfg.Name }

// Hosts gives the endpoints as they are now.
func (c *Cluster) Hosts() *lb.HostSet { return c.set.Load() }

// Stats gives the cluster's counters.
func (c *Cluster) Stats() *stats.Cluster { return c.live.stats }

// Breaker gives the circuit breaker. Requests is kept by Pick and Done; the other limits are the pools' and the router's.
func (c *Cluster) Breaker() *Breaker { return &c.live.breaker }

// Retry gives the retry budget of E2; Pick counts first attempts into it.
func (c *Cluster) Retry() *Budget { return c.live.retry }

// Hedge gives the hedge budget of E3; the pools count dials into it.
func (c *Cluster) Hedge() *Budget { return c.live.hedge }

// Pick chooses an endpoint for one attempt: circuit breaker, priority, locality, algorithm. The errors are package lb's.
// Each Result owes one Done.
func (c *Cluster) Pick(in *lb.PickInfo) (lb.Result, error) {
	limit := &c.live.breaker.Requests
	limited := limit.Max() != math.MaxUint32
	if limited && !limit.TryAcquire() {
		return lb.Result{}, lb.ErrOverflow
	}
	if len(in.Tried) == 0 {
		c.live.retry.Count(in.Now)
	}
	res, err := c.choose(in)
	if err != nil {
		if limited {
			limit.Release()
		}
		return lb.Result{}, err
	}
	if res.Panic {
		c.live.stats.LbHealthyPanic.Inc()
	}
	if res.LastResort {
		c.live.stats.Detour.EjectedTried.Inc()
	}
	res.Attach(c, limited)
	return res, nil
}

func (c *Cluster) choose(in *lb.PickInfo) (lb.Result, error) {
	if c.cfg.Type == OriginalDst {
		return c.live.originalDst(c.cfg, in)
	}
	if c.cfg.Type == DynamicDNS {
		return c.live.pickDynamic(in)
	}
	return c.set.Load().Pick(in)
}

// Attempt opens the bookkeeping of a connection that is made to an endpoint only to see whether it answers (E3). Its Done
// judges the endpoint; it counts as no request.
func (c *Cluster) Attempt(e *lb.Endpoint) lb.Result {
	r := lb.Result{Endpoint: e}
	r.AttachSilent(c)
	return r
}

// AnotherWell tells whether an endpoint other than than and those tried is neither ejected nor suspect (E3's decisions);
// without crossPriority only those of its priority count.
func (c *Cluster) AnotherWell(than *lb.Host, crossPriority bool, tried ...*lb.Host) bool {
	return c.set.Load().AnotherWell(than, crossPriority, tried...)
}

// Report judges an endpoint by something that no attempt waits for: Result.Done's part, and for a hedged connection
// attempt that goes on after its request went elsewhere.
func (c *Cluster) Report(e *lb.Endpoint, o lb.Outcome) { c.live.report(e, o) }

// Connected is Result.Connected's part, and for a connection that no attempt waits for.
func (c *Cluster) Connected(e *lb.Endpoint, _ time.Time, final bool) { c.live.connected(e, final) }

// Release implements lb.Reporter.
func (c *Cluster) Release() { c.live.breaker.Requests.Release() }
