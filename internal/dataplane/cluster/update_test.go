package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"detour.dev/detour/internal/xds"
)

// TestUpdateEqualsFirst: whatever changes in a snapshot, a manager that had others before has the clusters, limits and
// endpoints of one that sees it first.
func TestUpdateEqualsFirst(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m := NewManager(Options{})
	defer m.Close()
	clusters, assignments := map[string]*clusterv3.Cluster{}, map[string]*endpointv3.ClusterLoadAssignment{}
	for step := range 1500 {
		name := fmt.Sprintf("c%02d", r.IntN(40))
		switch r.IntN(6) {
		case 0:
			delete(clusters, name)
		case 1:
			delete(assignments, name)
		case 2:
			delete(clusters, name)
			delete(assignments, name)
		case 3:
			assignments[name] = assignmentOf(name, ep{fmt.Sprintf("10.0.0.%d", r.IntN(9)), 80, "", 0})
		default:
			clusters[name] = edsCluster(name, func(c *clusterv3.Cluster) {
				c.ConnectTimeout = durationpb.New(1e9 * 7)
				if r.IntN(10) == 0 { // the assignment has another name
					c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{ServiceName: fmt.Sprintf("c%02d", r.IntN(40))}
				}
			})
			if assignments[name] == nil {
				assignments[name] = assignmentOf(name, ep{"10.0.0.1", 80, "", 0})
			}
		}
		s := &xds.Snapshot{}
		for _, n := range slices.Sorted(maps.Keys(clusters)) {
			s.Clusters = append(s.Clusters, clusters[n])
		}
		for _, n := range slices.Sorted(maps.Keys(assignments)) {
			s.Endpoints = append(s.Endpoints, assignments[n])
		}
		fresh := NewManager(Options{})
		if rejected := append(m.Update(s), fresh.Update(s)...); len(rejected) > 0 {
			t.Fatalf("step %d: %v", step, rejected)
		}
		got, want := holdings(m), holdings(fresh)
		fresh.Close()
		if got != want || len(m.lives) != len(m.Table()) {
			t.Fatalf("step %d:\n%s\nwant\n%s", step, got, want)
		}
	}
}

// holdings tells what a manager has in force.
func holdings(m *Manager) string {
	var b strings.Builder
	for _, c := range m.Clusters() {
		fmt.Fprintf(&b, "%s %s:", c.cfg.Name, c.cfg.eds)
		for _, e := range c.endpoints() {
			fmt.Fprintf(&b, " %s", e.Target())
		}
		b.WriteString("\n")
	}
	return b.String()
}
