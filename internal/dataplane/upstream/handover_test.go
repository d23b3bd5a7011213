package upstream

import (
	"net/netip"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/cluster"
)

// queued is a request that waits and never takes the room that it is told of.
type queued struct{ told int }

func (q *queued) Room() { q.told++ }

// TestLateGrant: a place that was granted for a wish of the past, while a newer wish stands, leaves the newer one to the
// worker, which takes it back when nothing waits any more.
func TestLateGrant(t *testing.T) {
	limited := static(netip.MustParseAddrPort("127.0.0.1:1"))
	limited.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxConnections: wrapperspb.UInt32(1)}}}
	r := newRig(t, limited)
	r.p.Peers = []*Pools{r.p, {D: r.p.D}}
	c := r.p.Clusters.Get("static")
	b := c.Breaker()
	if !b.Connections.TryAcquire() { // another worker's
		t.Fatal("no place")
	}
	var granted *cluster.Wish
	r.on(func() {
		first, second := &queued{}, &queued{}
		r.p.Wait(c, first)
		granted = b.Wishes.Take(func(*cluster.Wish) bool { return true })
		granted.Grant() // posted
		r.p.Leave(c, first)
		r.p.Wait(c, second) // which makes another wish
	})
	r.on(func() {
		list := 0
		b.Wishes.Has(func(*cluster.Wish) bool { list++; return false })
		if own := r.p.wishes[b]; own == nil || own == granted || list != 1 {
			t.Errorf("%d wishes are made, the worker's own is the granted one: %v", list, own == granted)
		}
		clear(r.p.queued)
		r.p.unwish(b)
		if b.Wishes.Any() {
			t.Error("a wish is left that nobody knows of")
		}
		if n := b.Connections.Active(); n != 0 {
			t.Errorf("%d places are held", n)
		}
	})
}
