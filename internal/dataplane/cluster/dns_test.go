package cluster

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dns"
)

// zone is a resolver for the real discovery.
type zone struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
}

func (z *zone) Lookup(_ context.Context, name string, _ dns.Family) dns.Answer {
	z.mu.Lock()
	defer z.mu.Unlock()
	if a := z.addrs[name]; a != nil {
		return dns.Answer{Addrs: sorted(a), First: a[0], TTL: 5 * time.Second}
	}
	return dns.Answer{Err: &dns.Error{Kind: dns.NXDomain, Name: name}}
}

func sorted(a []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(a), netip.Addr.Compare)
}

func (z *zone) Families() (v4, v6 bool) { return true, false }
func (z *zone) Reload()                 {}

func (z *zone) set(name, a string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addrs[name] = addrs(a)
}

// With the real discovery: the TTL is followed, and what one cluster knows of a name another has at once.
func TestWithStrictDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{addrs: map[string][]netip.Addr{east: addrs("10.1.0.1"), west: addrs("10.2.0.1")}}
		d := discovery.NewStrictDNS(z, discovery.StrictDNSOptions{Log: slog.New(slog.DiscardHandler)})
		defer d.Close()
		r := &rig{t: t, log: &logBuffer{}}
		r.m = NewManager(Options{Log: r.log.logger(), Discovery: DNS(d)})
		defer r.m.Close()

		mine := strictDNSCluster(mydb, outlierDetection(), ep{east, 80, "us-east1", 0}, ep{west, 80, "us-west", 1})
		mine.RespectDnsTtl = true //lint:ignore SA1019 as istiod sends it
		r.update(mine)
		r.m.WaitFirst(context.Background())
		r.want(5, east)

		other := strictDNSCluster("outbound|81||mydb.com", nil, ep{east, 81, "us-east1", 0})
		other.RespectDnsTtl = true //lint:ignore SA1019 as istiod sends it
		r.update(mine, other)
		if got := r.request("outbound|81||mydb.com"); got != east {
			t.Errorf("a second cluster with a known name: %s", got)
		}

		z.set(east, "10.1.0.5")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		r.wantTable("10.1.0.5:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")
		r.want(5, east)
	})
}
