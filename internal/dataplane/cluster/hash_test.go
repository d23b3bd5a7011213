package cluster

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/xds"
)

var observeEnvoy = flag.Bool("update-hash", false, "write testdata/hash anew from the Envoy that ENVOY names, or that is in PATH")

// hashTable is what an Envoy was seen to do: for each value of a header whose xxHash64 (seed 0) is the hash, the endpoint that
// the request was given to, and the one that its retry with the previous_hosts predicate was given to.
type hashTable struct {
	Envoy string               `json:"envoy"`
	Picks map[string][2]string `json:"picks"`
}

const keys = 300

// TestHashAsEnvoy holds RING_HASH and MAGLEV against tables taken from an Envoy. With -update-hash it takes them: each cluster of
// testdata/hash/NAME.json becomes part of a static bootstrap, whose routes hash the header "key"; nobody listens at the
// endpoints, so every request fails with the endpoint's address in a response header.
func TestHashAsEnvoy(t *testing.T) {
	files, err := filepath.Glob("testdata/hash/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no clusters", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".picks.json") {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var c clusterv3.Cluster
			if err := protojson.Unmarshal(text, &c); err != nil {
				t.Fatal(err)
			}
			table := strings.TrimSuffix(file, ".json") + ".picks.json"
			if *observeEnvoy {
				observe(t, &c, table)
			}
			compareHash(t, &c, table)
		})
	}
}

func compareHash(t *testing.T, c *clusterv3.Cluster, table string) {
	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	var want hashTable
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Picks) != keys {
		t.Fatalf("%d keys in %s", len(want.Picks), table)
	}
	for _, compat := range []bool{true, false} {
		m := NewManager(Options{CompatEnvoy: compat, Discovery: newFakeDNS(nil)})
		defer m.Close()
		if rej := m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{c}}); len(rej) > 0 {
			t.Fatal(rej)
		}
		wrong := 0
		for key, to := range want.Picks {
			in := &lb.PickInfo{Now: time.Unix(1_800_000_000, 0), Hash: xxhash.Sum64String(key), HasHash: true}
			first := pickAddress(t, m, in)
			second := to[1]
			if compat {
				second = pickAddress(t, m, in)
			}
			if first != to[0] || second != to[1] {
				if wrong++; wrong < 5 {
					t.Errorf("compat %v: %s goes to %s, then %s; with Envoy to %v", compat, key, first, second, to)
				}
			}
		}
		if wrong > 0 {
			t.Errorf("compat %v: %d of %d differ", compat, wrong, len(want.Picks))
		}
	}
}

// pickAddress gives the endpoint's address and adds it to those that were tried.
func pickAddress(t *testing.T, m *Manager, in *lb.PickInfo) string {
	t.Helper()
	r, err := m.Clusters()[0].Pick(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Tried = append(in.Tried, r.Endpoint.Host)
	r.Done(lb.Outcome{})
	return r.Endpoint.String()
}

// observe drives an Envoy with the cluster and writes down where requests go.
func observe(t *testing.T, c *clusterv3.Cluster, table string) {
	dir := t.TempDir()
	port := 20000 + rand.IntN(20000)
	if err := os.WriteFile(filepath.Join(dir, "envoy.json"), hashBootstrap(t, c, port), 0o600); err != nil {
		t.Fatal(err)
	}
	envoy := os.Getenv("ENVOY")
	if envoy == "" {
		envoy = "envoy"
	}
	version, err := exec.Command(envoy, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(envoy, "-c", filepath.Join(dir, "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for until := time.Now().Add(20 * time.Second); ; {
		if s, err := net.Dial("tcp", address); err == nil {
			_ = s.Close()
			break
		} else if time.Now().After(until) {
			t.Fatalf("Envoy does not listen: %v\n%s", err, log.String())
		}
	}
	out := hashTable{Envoy: strings.TrimSpace(string(version)), Picks: map[string][2]string{}}
	out.Envoy = out.Envoy[strings.LastIndex(out.Envoy, "version:")+len("version:"):]
	out.Envoy = strings.TrimSpace(out.Envoy)
	for i := range keys {
		key := fmt.Sprintf("key-%d", i)
		out.Picks[key] = [2]string{ask(t, address, "/once", key), ask(t, address, "/twice", key)}
	}
	text, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(table, append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, address, path, key string) string {
	req, err := http.NewRequest("GET", "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("key", key)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.Header.Get("endpoint") == "" {
		t.Fatalf("%s of %s: status %d, header %v", path, key, resp.StatusCode, resp.Header)
	}
	return resp.Header.Get("endpoint")
}

func hashBootstrap(t *testing.T, c *clusterv3.Cluster, port int) []byte {
	cluster, err := protojson.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	const route = `{"match": {"path": %q}, "response_headers_to_add": [{"header": {"key": "endpoint", "value": "%%UPSTREAM_HOST%%"}}],
		"route": {"cluster": %q, "hash_policy": [{"header": {"header_name": "key"}}]%s}}`
	const retry = `, "retry_policy": {"retry_on": "connect-failure", "num_retries": 1, "host_selection_retry_max_attempts": 5,
		"retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config":
		{"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}]}`
	routes := fmt.Sprintf(route, "/once", c.Name, "") + "," + fmt.Sprintf(route, "/twice", c.Name, retry)
	return fmt.Appendf(nil, `{"static_resources": {"clusters": [%s], "listeners": [{"name": "l", "address": {"socket_address":
		{"address": "127.0.0.1", "port_value": %d}}, "filter_chains": [{"filters": [{"name": "hcm", "typed_config":
		{"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "h", "http_filters": [{"name": "router", "typed_config":
		{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
		"route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [%s]}]}}}]}]}]}}`, cluster, port, routes)
}
