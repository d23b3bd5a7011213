package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spf13/cobra"

	"detour.dev/detour/internal/admin"
	"detour.dev/detour/internal/stats"
	"detour.dev/detour/internal/xds"
)

// pcState is a data plane with the walkthrough's two endpoints, the nearer one ejected.
type pcState struct{}

func (pcState) Snapshot() (*xds.Snapshot, time.Time) {
	return &xds.Snapshot{Version: "1", Clusters: []*clusterv3.Cluster{{
		Name:                 "outbound|80||mydb.com",
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
	}}}, time.Unix(0, 0)
}

func (pcState) Clusters() *adminv3.Clusters {
	host := func(ip, region string, port, priority uint32, failed bool) *adminv3.HostStatus {
		return &adminv3.HostStatus{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
			}}},
			HealthStatus: &adminv3.HostHealthStatus{EdsHealthStatus: corev3.HealthStatus_HEALTHY, FailedOutlierCheck: failed},
			Locality:     &corev3.Locality{Region: region}, Weight: 1, Priority: priority,
		}
	}
	return &adminv3.Clusters{ClusterStatuses: []*adminv3.ClusterStatus{{
		Name:         "outbound|80||mydb.com",
		HostStatuses: []*adminv3.HostStatus{host("10.9.0.2", "us-west1", 80, 1, false), host("10.9.0.1", "us-east1", 81, 0, true)},
	}}}
}

func (pcState) Hosts() []admin.Host {
	return []admin.Host{{Cluster: "outbound|80||mydb.com", Address: "10.9.0.1:81", EjectedFor: 3000, LastError: "connection refused"}}
}

func (pcState) Listeners() *adminv3.Listeners         { return &adminv3.Listeners{} }
func (pcState) Endpoints() []admin.Assigned           { return nil }
func (pcState) Rejected() []admin.Rejected            { return nil }
func (pcState) ServerState() adminv3.ServerInfo_State { return adminv3.ServerInfo_LIVE }
func (pcState) Drain()                                {}
func (pcState) Quit()                                 {}

// startAdmin serves the admin API on this process's own socket, as run and proxy do.
func startAdmin(t *testing.T) (socket string) {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	l, err := admin.ListenPrivate()
	if err != nil {
		t.Fatal(err)
	}
	h := admin.NewHandler(pcState{}, admin.Options{Version: "v0.1.0", Args: []string{"detour", "proxy", "-f", "x"}, Stats: stats.NewRegistry()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- admin.Serve(ctx, l, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestProxyConfigOfRunning(t *testing.T) {
	socket := startAdmin(t)
	const table = `ENDPOINT        STATUS      OUTLIER CHECK     CLUSTER
10.9.0.1:81     HEALTHY     FAILED            outbound|80||mydb.com
10.9.0.2:80     HEALTHY     OK                outbound|80||mydb.com
`
	for _, args := range [][]string{
		{"endpoints"}, {"ep"}, {"endpoint", "-o", "short"}, {"ep", "--fqdn", "mydb.com"},
		{"ep", "--admin", "unix:" + socket}, {"ep", "--pid", strconv.Itoa(os.Getpid())},
	} {
		out, _, err := execute(t, newProxyConfig(), "", args...)
		if err != nil || out != table {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	wide, _, err := execute(t, newProxyConfig(), "", "ep", "-o", "wide", "--port", "81")
	want := `ENDPOINT        STATUS      OUTLIER CHECK     CLUSTER                   PRIORITY     LOCALITY     WEIGHT     EJECTED FOR     LAST ERROR
10.9.0.1:81     HEALTHY     FAILED            outbound|80||mydb.com     0            us-east1     1          3s              connection refused
`
	if err != nil || wide != want {
		t.Errorf("wide: %v\n%s", err, wide)
	}
	for _, args := range [][]string{{"clusters"}, {"c"}, {"cluster"}} {
		out, _, err := execute(t, newProxyConfig(), "", args...)
		if err != nil || !strings.Contains(out, "mydb.com         80       -          outbound      STRICT_DNS") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	for _, args := range [][]string{{"r"}, {"l"}, {"all"}, {"bootstrap", "-o", "short"}} {
		if out, _, err := execute(t, newProxyConfig(), "", args...); err != nil || len(out) < 10 {
			t.Errorf("%v: %v %q", args, err, out)
		}
	}
	ps, _, err := execute(t, newPs(), "")
	if err != nil || !strings.Contains(ps, strconv.Itoa(os.Getpid())+"  LIVE") || !strings.Contains(ps, "detour proxy -f x") {
		t.Errorf("ps: %v\n%s", err, ps)
	}
}

func TestProxyConfigFormats(t *testing.T) {
	startAdmin(t)
	for _, kind := range []string{"ep", "c", "r", "l", "bootstrap", "all"} {
		out, _, err := execute(t, newProxyConfig(), "", kind, "-o", "json")
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%s -o json: %v\n%s", kind, err, out)
		}
		if out, _, err := execute(t, newProxyConfig(), "", kind, "-o", "yaml"); err != nil || strings.HasPrefix(out, "{") {
			t.Errorf("%s -o yaml: %v\n%s", kind, err, out)
		}
	}
	out, _, err := execute(t, newProxyConfig(), "", "ep", "-o", "json")
	if err != nil || !strings.Contains(out, `"failedOutlierCheck": true`) { // istioctl's names
		t.Errorf("%v\n%s", err, out)
	}
	// what was printed can be read again
	saved := `{"clusterStatuses":` + out + `}`
	if out, _, err := execute(t, newProxyConfig(), saved, "ep", "-f", "-"); err != nil || !strings.Contains(out, "FAILED") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestProxyConfigUsage(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, tt := range []struct {
		args   string
		status int
		word   string
	}{
		{"ep -o xml", ExitUsage, "must be short, wide, json or yaml"},
		{"ep --admin 127.0.0.1:1 --pid 7", ExitUsage, "only one of --admin, --pid and -f"},
		{"ep --admin nowhere", ExitUsage, "must be HOST:PORT or unix:PATH"},
		{"ep --pid -3", ExitUsage, "is no process id"},
		{"ep --pid 7", ExitFailed, "no running detour has process id 7"},
		{"ep -f /nonexistent/dump.json", ExitFailed, "/nonexistent/dump.json: no such file or directory"},
		{"ep -f -", ExitFailed, "standard input: is empty"},
		{"ep --admin unix:/nonexistent.sock", ExitFailed, "admin API on unix:/nonexistent.sock: no such file"},
	} {
		_, _, err := execute(t, newProxyConfig(), "", strings.Fields(tt.args)...)
		status := ExitFailed
		var exit *ExitError
		if errors.As(err, &exit) {
			status = exit.Status
		}
		if err == nil || status != tt.status || !strings.Contains(err.Error(), tt.word) {
			t.Errorf("%s: %v (status %d), want %q (status %d)", tt.args, err, status, tt.word, tt.status)
		}
	}
	out, errs, err := execute(t, newPs(), "")
	if err != nil || out != "" || errs != "detour: no detour is running\n" {
		t.Errorf("ps: %v %q %q", err, out, errs)
	}
}

// Every subcommand shows an example.
func TestHelpHasExamples(t *testing.T) {
	for _, c := range []*cobra.Command{newProxyConfig(), newPs(), newCompletion()} {
		for _, c := range append(c.Commands(), c) {
			if c.Short == "" || !strings.Contains(c.Example, "detour ") {
				t.Errorf("%s: short %q, example %q", c.Name(), c.Short, c.Example)
			}
		}
	}
}

// Endpoints go by their own port, as istioctl has it, which help must say; 81 is one's, 80 is the service's too.
func TestProxyConfigPort(t *testing.T) {
	startAdmin(t)
	for port, want := range map[string]int{"80": 2, "81": 2, "8": 1} {
		out, _, err := execute(t, newProxyConfig(), "", "ep", "--port", port)
		if err != nil || strings.Count(out, "\n") != want {
			t.Errorf("--port %s: %v\n%s", port, err, out)
		}
	}
	for _, args := range [][]string{{"ep", "--help"}, {"all", "--help"}} {
		out, _, err := execute(t, newProxyConfig(), "", args...)
		if err != nil || !strings.Contains(out, "only this port, a service's; of endpoints, as in istioctl, their own") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		root := &cobra.Command{Use: "detour"}
		root.AddCommand(newCompletion(), newProxyConfig())
		if out, _, err := execute(t, root, "", "completion", shell); err != nil || !strings.Contains(out, "detour") {
			t.Errorf("%s: %v, %d bytes", shell, err, len(out))
		}
	}
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}, {"completion", "bash", "zsh"}} {
		root := &cobra.Command{Use: "detour"}
		root.AddCommand(newCompletion())
		if _, _, err := execute(t, root, "", args...); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// The start of a process is the same whenever one asks.
func TestPsSince(t *testing.T) {
	startAdmin(t)
	first, _, err := execute(t, newPs(), "")
	if err != nil {
		t.Fatal(err)
	}
	second := time.Now().Truncate(time.Second)
	await(t, "a second passes", func() bool { return !time.Now().Truncate(time.Second).Equal(second) })
	for range 3 {
		if again, _, err := execute(t, newPs(), ""); err != nil || again != first {
			t.Errorf("%v: %s, before that %s", err, again, first)
		}
	}
}
