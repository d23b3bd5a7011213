package cluster

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/xds"
)

var update = flag.Bool("update", false, "write the golden files")

// The shapes are those of an Envoy 1.40 with the same cluster and the same failure.
func TestAdminShapes(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(81)
		r.down["10.1.0.1:81"] = refused
		r.request(mydb)
		c := r.m.Get(mydb)
		golden(t, "status.json", c.Status())
		golden(t, "endpoints.json", c.Endpoints())
		h := c.Hosts().Endpoints()[0].Host
		text, at := h.LastError()
		if text != "connection failure: connection refused" || at.IsZero() {
			t.Errorf("last error %q at %v", text, at)
		}
	})
}

func golden(t *testing.T, name string, m proto.Message) {
	t.Helper()
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer // protojson's spacing is unstable on purpose
	if err := json.Indent(&got, raw, "", " "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s:\n%s\nwant\n%s", name, got.Bytes(), want)
	}
}

func TestUnixSocket(t *testing.T) {
	m := NewManager(Options{})
	defer m.Close()
	a := assignmentOf("a", ep{"10.0.0.1", 80, "", 0})
	a.Endpoints[0].LbEndpoints[0].GetEndpoint().Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/a.sock"}}}
	if rej := m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{edsCluster("a", nil)}, Endpoints: []*endpointv3.ClusterLoadAssignment{a}}); len(rej) > 0 {
		t.Fatal(rej)
	}
	h := m.Get("a").Hosts().Endpoints()[0]
	if h.Path != "/run/a.sock" || h.Address.IsValid() || m.Get("a").Status().HostStatuses[0].Address.GetPipe().GetPath() != "/run/a.sock" {
		t.Errorf("host %+v", h.Host)
	}
}
