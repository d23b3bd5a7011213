package proxyconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/admin"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got:\n%s\nwant:\n%s", file, got, want)
	}
}

func fromFile(t *testing.T, name string) *Source {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := FromFile(name, f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The tables of a real Envoy's dump, and of one like istiod's. The golden files were held against a real istioctl's output, which
// differs in one column only: it calls every cluster with a cluster_type STATIC.
func TestTables(t *testing.T) {
	ctx := t.Context()
	for _, dump := range []string{"config_dump_eds.json", "istio.json"} {
		s := fromFile(t, dump)
		base := strings.TrimSuffix(dump, ".json")
		for kind, write := range map[string]func(io.Writer, *All) error{
			"clusters":  func(w io.Writer, a *All) error { return WriteClusters(w, a.Clusters, Filter{}) },
			"listeners": func(w io.Writer, a *All) error { return WriteListeners(w, a.Listeners, Filter{}) },
			"routes":    func(w io.Writer, a *All) error { return WriteRoutes(w, a.Routes, Filter{}) },
			"all":       func(w io.Writer, a *All) error { return a.Write(w, Filter{}, true) },
		} {
			t.Run(base+"."+kind, func(t *testing.T) {
				a, err := s.All(ctx, false)
				if err != nil {
					t.Fatal(err)
				}
				var b bytes.Buffer
				if err := write(&b, a); err != nil {
					t.Fatal(err)
				}
				golden(t, base+"."+kind+".txt", b.Bytes())
			})
		}
	}
	e, err := fromFile(t, "clusters.json").Endpoints(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteEndpoints(&b, e, Filter{}, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "clusters.endpoints.txt", b.Bytes())
	want := `ENDPOINT            STATUS      OUTLIER CHECK     CLUSTER
127.0.0.1:29998     HEALTHY     OK                outbound|80||mydb.com
127.0.0.1:29998     HEALTHY     OK                outbound|9000||tcp.example.com
127.0.0.1:29999     HEALTHY     FAILED            outbound|80||mydb.com
`
	if b.String() != want {
		t.Errorf("istioctl prints\n%s", want)
	}
}

func TestFilters(t *testing.T) {
	ctx := t.Context()
	for _, tt := range []struct {
		f    Filter
		want string
	}{
		{Filter{Port: 29999}, "127.0.0.1:29999"},
		{Filter{Cluster: "OUTBOUND|9000||tcp.example.com"}, "127.0.0.1:29998"},
		{Filter{Cluster: "outbound|80"}, ""},
		{Filter{FQDN: "mydb"}, "127.0.0.1:29998 127.0.0.1:29999"},
		{Filter{FQDN: "mydb", Port: 29998}, "127.0.0.1:29998"},
		{Filter{Address: "127.0.0.2"}, ""},
		{Filter{Status: "healthy", Port: 29999}, "127.0.0.1:29999"},
		{Filter{Status: "draining"}, ""},
	} {
		e, err := fromFile(t, "clusters.json").Endpoints(ctx, false)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := WriteEndpoints(&b, e, tt.f, false); err != nil {
			t.Fatal(err)
		}
		if got := firstColumn(b.String()); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.f, got, tt.want)
		}
	}
	a, err := fromFile(t, "istio.json").All(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		f    Filter
		want string
	}{
		{Filter{FQDN: "mydb"}, "mydb.com mydb.com"},
		{Filter{FQDN: "mydb", Subset: "v2"}, "mydb.com"},
		{Filter{Port: 443}, "api.example.com"},
		{Filter{Direction: "inbound"}, ""},
	} {
		var b bytes.Buffer
		if err := WriteClusters(&b, a.Clusters, tt.f); err != nil {
			t.Fatal(err)
		}
		if got := firstColumn(b.String()); got != tt.want {
			t.Errorf("clusters %+v: %q, want %q", tt.f, got, tt.want)
		}
	}
	for _, tt := range []struct {
		f    Filter
		want int
	}{{Filter{}, 3}, {Filter{Port: 80}, 1}, {Filter{Type: "tcp"}, 1}, {Filter{Address: "0.0.0.0"}, 2}, {Filter{Type: "http+tcp"}, 1}} {
		if got := len(FilterListeners(a.Listeners, tt.f)); got != tt.want {
			t.Errorf("listeners %+v: %d, want %d", tt.f, got, tt.want)
		}
	}
	if got := FilterRoutes(a.Routes, Filter{Name: "80"}); len(got) != 1 || got[0].GetName() != "80" {
		t.Errorf("routes by name: %v", got)
	}
}

func firstColumn(table string) string {
	var all []string
	for line := range strings.SplitSeq(strings.TrimSpace(table), "\n") {
		all = append(all, strings.Fields(line)[0])
	}
	return strings.Join(all[1:], " ")
}

// An admin API of detour's gives the columns that an Envoy's has not; neither may be asked for anything but by GET.
func TestFromAdmin(t *testing.T) {
	clusters, err := os.ReadFile("testdata/clusters.json")
	if err != nil {
		t.Fatal(err)
	}
	own := `{"endpoints":[{"cluster":"outbound|80||mydb.com","address":"127.0.0.1:29999","ejected_for_ms":41700,"last_error":"connection\trefused\u001b[31m"}]}`
	for name, detour := range map[string]bool{"wide.detour.txt": true, "wide.envoy.txt": false} {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /clusters", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(clusters) })
		if detour {
			mux.HandleFunc("GET /detour/endpoints", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, own) })
		}
		server := httptest.NewServer(mux)
		s, err := FromAdmin(strings.TrimPrefix(server.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := s.Endpoints(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := WriteEndpoints(&b, e, Filter{}, true); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
		server.Close()
	}
}

func TestErrors(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "not for\x1byou\nsecond line")
	}))
	defer server.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	ctx := t.Context()
	for name, tt := range map[string]struct {
		do   func() error
		word string
	}{
		"address": {func() error { _, err := FromAdmin("nowhere"); return err }, "must be HOST:PORT or unix:PATH"},
		"status": {func() error {
			s, _ := FromAdmin(server.URL)
			_, err := s.Clusters(ctx)
			return err
		}, "answers 403: not for?you"},
		"refused": {func() error {
			s, _ := FromAdmin(closed.URL)
			_, err := s.Clusters(ctx)
			if !Refused(err) {
				t.Error("Refused says no")
			}
			return err
		}, "connection refused"},
		"no socket": {func() error {
			s, _ := FromAdmin("unix:/nonexistent/x.sock")
			_, err := s.Clusters(ctx)
			if !Refused(err) {
				t.Error("Refused says no")
			}
			return err
		}, "no such file"},
		"empty":    {func() error { _, err := FromFile("f", strings.NewReader(" \n")); return err }, "f: is empty"},
		"not JSON": {fileErr(ctx, "{\n\"a\": oops"), "line 2: not JSON"},
		"array":    {fileErr(ctx, "[]"), "not JSON: json: cannot unmarshal"},
		"other":    {fileErr(ctx, `{"cluster_statuses": 7}`), "not what /clusters?format=json prints"},
		"no eds":   {fileErr(ctx, `{"configs": []}`), "include_eds"},
	} {
		if err := tt.do(); err == nil || !strings.Contains(err.Error(), tt.word) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q on one line", name, err, tt.word)
		}
	}
	var b strings.Builder
	if _, err := fromFile(t, "clusters.json").Clusters(ctx); err == nil || !strings.Contains(err.Error(), "has no ClustersConfigDump") {
		t.Errorf("clusters of the wrong dump: %v %s", err, b.String())
	}
}

func fileErr(ctx context.Context, s string) func() error {
	return func() error {
		src, err := FromFile("f", strings.NewReader(s))
		if err != nil {
			return err
		}
		_, err = src.Endpoints(ctx, false)
		return err
	}
}

// What this build does not know is kept, as far as JSON goes, and disturbs nobody.
func TestUnknownTypes(t *testing.T) {
	s, err := FromFile("f", strings.NewReader(`{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.ClustersConfigDump","future_field":[1],
		"static_clusters":[{"cluster":{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"x","new_in_2030":{},
		"typed_extension_protocol_options":{"a":{"@type":"type.googleapis.com/nobody.knows.It","words":["kept"]}}}}]},
		{"@type":"type.googleapis.com/future.Section"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Clusters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	j, err := ToJSON(all)
	if err != nil || !bytes.Contains(j, []byte(`"kept"`)) || !bytes.Contains(j, []byte("nobody.knows.It")) {
		t.Errorf("%s, %v", j, err)
	}
}

func FuzzDump(f *testing.F) {
	// Small seeds: the fuzzer spends minutes on making large ones smaller.
	const admin, config = `{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.`, `{"@type":"type.googleapis.com/envoy.config.`
	f.Add([]byte(admin + `ClustersConfigDump","static_clusters":[{"cluster":` + config + `cluster.v3.Cluster","name":"outbound|80||a","type":"EDS"}}]}]}`))
	f.Add([]byte(admin + `ListenersConfigDump","static_listeners":[{"listener":` + config + `listener.v3.Listener","address":{"socketAddress":{"portValue":80}},"filterChains":[{"filterChainMatch":{"serverNames":["a"]},"filters":[{"name":"envoy.filters.network.tcp_proxy"}]}]}}]}]}`))
	f.Add([]byte(admin + `RoutesConfigDump","static_route_configs":[{"route_config":` + config + `route.v3.RouteConfiguration","name":"80","virtual_hosts":[{"domains":["a","b:1"],"routes":[{"match":{"prefix":"/"}}]}]}}]}]}`))
	f.Add([]byte(`{"configs":[{"@type":"x"},{"@type":"type.googleapis.com/envoy.admin.v3.EndpointsConfigDump","static_endpoint_configs":[{}]}]}`))
	f.Add([]byte(`{"cluster_statuses":[{"name":"\u001b[2J","host_statuses":[{},{"address":{"pipe":{"path":"/x"}}}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := FromFile("fuzz", bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if e, err := s.Endpoints(t.Context(), false); err == nil {
			_ = WriteEndpoints(&out, e, Filter{}, true)
		}
		if a, err := s.All(t.Context(), false); err == nil {
			_ = a.Write(&out, Filter{}, true)
			if j, err := a.JSON(Filter{}); err == nil && !json.Valid(j) {
				t.Errorf("not JSON: %s", j)
			}
		}
		for _, c := range out.Bytes() {
			if c < ' ' && c != '\n' || c == 0x7f {
				t.Fatalf("byte %#x in %q", c, out.String())
			}
		}
	})
}

// fakeDetour answers on a process's socket.
func fakeDetour(t *testing.T, dir string, pid int, args string) {
	t.Helper()
	l, err := net.Listen("unix", admin.SocketPath(dir, pid))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"state":"LIVE","uptime_current_epoch":"60s","node":{"metadata":{"DETOUR_STARTED":"2026-01-02T03:04:05Z","DETOUR_ARGS":["detour","`+args+`"]}}}`)
	})}}
	server.Start()
	t.Cleanup(server.Close)
}

func TestFind(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	ctx := t.Context()
	if s, err := Find(ctx, 0); err != nil || s.Name() != DefaultAdmin {
		t.Errorf("none: %v, %v", s, err)
	}
	dir, err := admin.SocketDir()
	if err != nil {
		t.Fatal(err)
	}
	fakeDetour(t, dir, 4242, "run")
	if s, err := Find(ctx, 0); err != nil || s.Name() != "unix:"+admin.SocketPath(dir, 4242) {
		t.Errorf("one: %v, %v", s, err)
	}
	if _, err := Find(ctx, 1); err == nil || !strings.Contains(err.Error(), "no running detour has process id 1") {
		t.Errorf("another: %v", err)
	}
	fakeDetour(t, dir, 77, "proxy")
	if _, err := Find(ctx, 0); err == nil || err.Error() != "2 detours are running, say which with --pid: 77 (detour proxy), 4242 (detour run)" {
		t.Errorf("two: %v", err)
	}
	if s, err := Find(ctx, 77); err != nil || s.Name() != "unix:"+admin.SocketPath(dir, 77) {
		t.Errorf("by id: %v, %v", s, err)
	}
	all, err := Running(ctx)
	if err != nil || len(all) != 2 || all[0].State != "LIVE" || all[0].Command() != "detour proxy" || all[0].Since.IsZero() {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, p := range all { // what it says itself, not its uptime before whenever it is asked
		if want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); !p.Since.Equal(want) || p.Since.Location() != time.Local {
			t.Errorf("since %v, want %v", p.Since, want)
		}
	}
	all[1].Err = errors.New("hung")
	all[1].Args = nil
	var b bytes.Buffer
	if err := WriteProcesses(&b, all); err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(b.String())
	if len(fields) != 5+7+5 || fields[5] != "77" || fields[12] != "4242" || fields[13] != "?" {
		t.Errorf("%s", b.String())
	}
}
