package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func walkthrough(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../../testdata/walkthrough/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fake is a source whose files the test sets.
type fake struct {
	files   []source.File
	issues  []config.Issue
	updates chan source.Update
}

func (f *fake) update() source.Update {
	return source.Update{Files: slices.Clone(f.files), Issues: slices.Clone(f.issues)}
}

func (f *fake) Load() source.Update { return f.update() }

func (f *fake) Watch(ctx context.Context, out chan<- source.Update) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-f.updates:
			select {
			case out <- u:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// rig is a pipeline over a fake source, in a bubble of fake time.
type rig struct {
	t     *testing.T
	src   *fake
	p     *Pipeline
	log   bytes.Buffer
	snaps int // snapshots that the sink got
	stop  context.CancelFunc
	ended chan error
}

// Set implements xds.Sink.
func (r *rig) Set(*xds.Snapshot) xds.Result {
	r.snaps++
	return xds.Result{}
}

func (r *rig) translate(s *config.Set, _ xds.NodeGroup) (*xds.Snapshot, []config.Issue) {
	var b strings.Builder
	for _, k := range []config.Kind{config.ServiceEntry, config.DestinationRule, config.VirtualService} {
		for _, o := range s.All(k) {
			fmt.Fprintln(&b, o.Key, o.Spec)
		}
	}
	return &xds.Snapshot{Version: b.String()}, nil
}

// start runs a pipeline over files, given as name and contents in turn.
func start(t *testing.T, files ...string) *rig {
	t.Helper()
	r := &rig{t: t, src: &fake{updates: make(chan source.Update)}, ended: make(chan error, 1)}
	for i := 0; i < len(files); i += 2 {
		r.src.files = append(r.src.files, source.File{Name: files[i], Data: []byte(files[i+1])})
	}
	r.p = New(Config{Source: r.src, Translate: r.translate, Sink: r, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err := r.p.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- r.p.Run(ctx) }()
	return r
}

func (r *rig) end() {
	r.stop()
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
}

// write sets one file's contents and lets the loop take it; no time passes.
func (r *rig) write(name, data string, whole ...bool) {
	f := source.File{Name: name, Data: []byte(data), Whole: len(whole) > 0}
	if i := r.index(name); i >= 0 {
		r.src.files[i] = f
	} else {
		r.src.files = append(r.src.files, f)
	}
	r.send()
}

func (r *rig) index(name string) int {
	return slices.IndexFunc(r.src.files, func(f source.File) bool { return f.Name == name })
}

func (r *rig) remove(name string) {
	i := r.index(name)
	r.src.files = slices.Delete(r.src.files, i, i+1)
	r.send()
}

func (r *rig) send() {
	r.src.updates <- r.src.update()
	synctest.Wait()
}

func (r *rig) pass(d time.Duration) {
	time.Sleep(d) // fake time
	synctest.Wait()
}

func (r *rig) set() *config.Set { return r.p.Status().Set }

func (r *rig) se(name string) *networking.ServiceEntry {
	if o := r.set().Get(config.Key{Kind: config.ServiceEntry, Namespace: "default", Name: name}); o != nil {
		return o.Spec.(*networking.ServiceEntry)
	}
	return nil
}

func (r *rig) dr(name string) *networking.DestinationRule {
	if o := r.set().Get(config.Key{Kind: config.DestinationRule, Namespace: "default", Name: name}); o != nil {
		return o.Spec.(*networking.DestinationRule)
	}
	return nil
}

// errorLines gives the current errors, joined.
func (r *rig) errorLines() string { return Errors(errorsOf(r.p.Status().Issues)).Error() }

const almost = StandStill - time.Millisecond

func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestWalkthroughChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one, two, three := walkthrough(t, "1-service-entry"), walkthrough(t, "2-destination-rule"), walkthrough(t, "3-service-entry-us-east-down")
		r := start(t, "se.yaml", one)
		defer r.end()
		r.write("dr.yaml", two)
		if r.dr("mydynamodb") != nil {
			t.Error("what is new applied before it had stood still")
		}
		r.pass(StandStill)
		if r.dr("mydynamodb") == nil {
			t.Error("what is new did not apply once it had stood still")
		}
		r.write("se.yaml", three)
		if got := r.se("external-svc-dns").Endpoints[0].Ports["http"]; got != 81 {
			t.Errorf("a change that takes nothing away waited: port %d", got)
		}
		snaps := r.snaps
		r.pass(time.Hour)
		if r.snaps != snaps {
			t.Error("an equal snapshot was handed on again")
		}
	})
}

// TestPrefixes writes every prefix of a file over a good one, one after the other, faster than they stand still.
func TestPrefixes(t *testing.T) {
	one, two, three := walkthrough(t, "1-service-entry"), walkthrough(t, "2-destination-rule"), walkthrough(t, "3-service-entry-us-east-down")
	drTLS, seTLS := walkthrough(t, "4-https-destination-rule"), walkthrough(t, "4-https-service-entry")
	for _, tt := range []struct{ name, good, next string }{
		{"1+2 over itself", one + "---\n" + two, one + "---\n" + two},
		{"3+2 over 1+2", one + "---\n" + two, three + "---\n" + two},
		{"2+1 over 1+2", one + "---\n" + two, two + "---\n" + one},
		{"4 over itself", seTLS + "---\n" + drTLS, seTLS + "---\n" + drTLS},
		{"4 the other way round", seTLS + "---\n" + drTLS, drTLS + "---\n" + seTLS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, "f.yaml", tt.good)
				defer r.end()
				tls := strings.Contains(tt.good, "tls:")
				for i := range len(tt.next) {
					r.write("f.yaml", tt.next[:i])
					r.pass(almost)
					se, dr := r.se("external-svc-dns"), r.dr("mydynamodb")
					if se == nil || dr == nil || len(se.Endpoints) != 2 || se.Hosts[0] != "mydb.com" || dr.Host != "mydb.com" ||
						dr.TrafficPolicy.GetOutlierDetection().GetInterval().GetSeconds() != 15 || tls && dr.TrafficPolicy.GetTls() == nil {
						t.Fatalf("after %d bytes: %v %v", i, se, dr)
					}
					for e, want := range []string{"dynamodb.us-east-1.amazonaws.com", "dynamodb.us-west-1.amazonaws.com"} {
						if se.Endpoints[e].Address != want || se.Endpoints[e].Locality == "" || !tls && se.Endpoints[e].Ports["http"] < 80 {
							t.Fatalf("after %d bytes: endpoint %v", i, se.Endpoints[e])
						}
					}
				}
				if s := r.p.Status(); len(s.Issues) > 0 || r.log.Len() > 0 && strings.Contains(r.log.String(), "ERROR") {
					t.Errorf("a half-written file was complained of: %v %s", s.Issues, r.log.String())
				}
				r.write("f.yaml", tt.next)
				r.pass(StandStill)
				if next, want := r.set().Len(), 2; next != want {
					t.Errorf("%d objects", next)
				}
				if tt.name == "3+2 over 1+2" && r.se("external-svc-dns").Endpoints[0].Ports["http"] != 81 {
					t.Error("the whole file did not apply")
				}
			})
		})
	}
}

func TestPrefixThatStands(t *testing.T) {
	bubble(t, func(t *testing.T) {
		full := walkthrough(t, "4-https-destination-rule")
		r := start(t, "f.yaml", full)
		defer r.end()
		short := full[:strings.Index(full, "    loadBalancer")]
		r.write("f.yaml", short)
		r.pass(almost)
		if r.dr("mydynamodb").TrafficPolicy.OutlierDetection == nil {
			t.Error("a field was taken away too early")
		}
		r.pass(time.Millisecond)
		if dr := r.dr("mydynamodb"); dr.TrafficPolicy.OutlierDetection != nil || dr.TrafficPolicy.Tls == nil {
			t.Errorf("a file that stood still did not apply: %v", dr)
		}
	})
}

func TestRenameAppliesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		full := walkthrough(t, "4-https-destination-rule")
		r := start(t, "f.yaml", full)
		defer r.end()
		r.write("f.yaml", walkthrough(t, "2-destination-rule"), true)
		if r.dr("mydynamodb").TrafficPolicy.Tls != nil {
			t.Error("a file that came by rename waited")
		}
		r.write("g.yaml", walkthrough(t, "1-service-entry"), true)
		if r.se("external-svc-dns") == nil {
			t.Error("a new file that came by rename waited")
		}
	})
}

func TestLastGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one, two := walkthrough(t, "1-service-entry"), walkthrough(t, "2-destination-rule")
		r := start(t, "f.yaml", one+"---\n"+two)
		defer r.end()

		r.write("f.yaml", strings.Replace(one, "DNS\n", "DNSS\n", 1)+"---\n"+strings.Replace(two, "15s", "20s", 1))
		r.pass(StandStill)
		if r.se("external-svc-dns") == nil || r.dr("mydynamodb").TrafficPolicy.OutlierDetection.Interval.Seconds != 20 {
			t.Error("a bad object was not kept alone")
		}
		if e := r.errorLines(); !strings.Contains(e, "f.yaml:13:3: error: ServiceEntry default/external-svc-dns: spec.resolution") || r.p.Status().Rejected != 1 {
			t.Errorf("errors %q", e)
		}
		if n := strings.Count(r.log.String(), "level=ERROR"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, r.log.String())
		}

		r.write("f.yaml", "a: [\n")
		r.pass(StandStill)
		if r.set().Len() != 2 {
			t.Error("a file that does not parse lost objects")
		}
		r.write("f.yaml", one+"---\n"+strings.Replace(two, "kind: Dest", "kind: Desti", 1))
		r.pass(StandStill)
		if r.dr("mydynamodb") == nil {
			t.Error("an object whose kind can't be told was lost")
		}
		r.write("f.yaml", one+"---\n"+strings.Replace(two, "  name: mydynamodb\n", "  labels: {}\n", 1))
		r.pass(StandStill)
		if r.dr("mydynamodb") == nil || len(r.set().Refused()) != 0 {
			t.Errorf("an object whose name got lost was lost too, or refused: %v", r.set().Refused())
		}
		r.write("f.yaml", one)
		r.pass(StandStill)
		if r.dr("mydynamodb") != nil || len(r.p.Status().Issues) != 0 {
			t.Errorf("an object that is gone stays: %v", r.p.Status().Issues)
		}
		if !strings.Contains(r.log.String(), "configuration error is gone") {
			t.Error("nothing says that the error is gone")
		}
		r.remove("f.yaml")
		if r.set().Len() != 1 {
			t.Error("a file that vanished took its objects along at once")
		}
		r.pass(StandStill)
		if r.set().Len() != 0 {
			t.Error("a file that is gone still serves")
		}
	})
}

func TestRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, "se.yaml", walkthrough(t, "1-service-entry"))
		defer r.end()
		bad := strings.Replace(walkthrough(t, "4-https-destination-rule"), "SIMPLE", "MUTUAL", 1)
		r.write("dr.yaml", bad)
		r.pass(StandStill)
		ref := r.set().Refused()
		if len(ref) != 1 || ref[0].Key.Name != "mydynamodb" || !slices.Equal(ref[0].Hosts, []string{"mydb.com"}) || ref[0].Issue.Code != config.CodeTLS {
			t.Fatalf("refused %+v", ref)
		}
		r.write("dr.yaml", strings.Replace(bad, "mode:", "moode:", 1))
		r.pass(StandStill)
		if ref := r.set().Refused(); len(ref) != 1 || ref[0].Hosts[0] != "mydb.com" || ref[0].Issue.Code != config.CodeUnknownField {
			t.Fatalf("refused %+v", ref)
		}
		r.write("dr.yaml", walkthrough(t, "4-https-destination-rule"))
		r.pass(StandStill)
		r.write("dr.yaml", bad)
		r.pass(StandStill)
		if len(r.set().Refused()) != 0 || r.dr("mydynamodb") == nil || r.p.Status().Rejected != 2 {
			t.Errorf("a rule with a last good version was refused: %+v", r.set().Refused())
		}
	})
}

func TestDuplicates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		two := walkthrough(t, "2-destination-rule")
		other := strings.Replace(two, "1m", "5m", 1)
		r := start(t, "a.yaml", two)
		defer r.end()
		r.write("b.yaml", other)
		r.pass(StandStill)
		if got := r.dr("mydynamodb").TrafficPolicy.OutlierDetection.BaseEjectionTime.Seconds; got != 60 {
			t.Errorf("the second serves: %d s", got)
		}
		if e := r.errorLines(); !strings.Contains(e, "b.yaml:1:1: error: DestinationRule default/mydynamodb: stands a second time; the one at a.yaml:1:1 serves") {
			t.Errorf("errors %q", e)
		}
		r.remove("a.yaml")
		r.pass(StandStill)
		if got := r.dr("mydynamodb").TrafficPolicy.OutlierDetection.BaseEjectionTime.Seconds; got != 300 || r.errorLines() != "" {
			t.Errorf("the second does not serve once the first is gone: %d s, %s", got, r.errorLines())
		}
		r.write("b.yaml", other+"---\n"+two)
		r.pass(StandStill)
		if e := r.errorLines(); !strings.Contains(e, "b.yaml:13:1") || !strings.Contains(e, "the one at b.yaml:1:1 serves") {
			t.Errorf("errors %q", e)
		}
	})
}

func TestObjectMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		two := walkthrough(t, "2-destination-rule")
		r := start(t, "a.yaml", two)
		defer r.end()
		r.remove("a.yaml")
		r.pass(StandStill / 2)
		r.write("b.yaml", two)
		for range 40 {
			r.pass(StandStill / 10)
			if r.dr("mydynamodb") == nil || r.errorLines() != "" {
				t.Fatalf("missing while it moved; %s", r.errorLines())
			}
		}
		if o := r.set().Get(config.Key{Kind: config.DestinationRule, Namespace: "default", Name: "mydynamodb"}); o.Origin.File != "b.yaml" {
			t.Errorf("served from %s", o.Origin)
		}
		if n := len(r.p.store.files); n != 1 {
			t.Errorf("%d files are remembered", n)
		}
	})
}

func TestSourceIssue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, "a.yaml", walkthrough(t, "2-destination-rule"))
		defer r.end()
		r.src.issues = []config.Issue{{Code: config.CodeUnreadable, Origin: config.Origin{File: "a.yaml"}, Message: "can't be read"}}
		r.send()
		if r.errorLines() != "a.yaml: error: can't be read [DTR0020]" || r.dr("mydynamodb") == nil {
			t.Errorf("errors %q", r.errorLines())
		}
	})
}

type refusingSink struct{ sets int }

func (s *refusingSink) Set(*xds.Snapshot) xds.Result {
	s.sets++
	return xds.Result{Rejected: []xds.Rejection{{TypeURL: "T", Name: "N", Reason: "because"}}}
}

// TestSinkIssues: what the engine does not serve is a warning at its ServiceEntry, said once.
func TestSinkIssues(t *testing.T) {
	const se = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: %s}\nspec: {hosts: [%s], resolution: DNS, ports: [{number: 80, name: p, protocol: %s}]}\n---\n"
	set, known, err := LoadOnce([]string{"-"}, strings.NewReader(fmt.Sprintf(se, "a", "a.com", "HTTP")+fmt.Sprintf(se, "b", "b.com", "GRPC")+
		strings.Replace(fmt.Sprintf(se, "c", "c.com", "TCP"), "spec: {", "spec: {addresses: [192.0.2.7], ", 1)))
	if err != nil || len(known) != 1 {
		t.Fatal(known, err)
	}
	got := sinkIssues([]xds.Rejection{
		{TypeURL: "type.googleapis.com/envoy.config.cluster.v3.Cluster", Name: "outbound|80||a.com", Reason: "r"},
		{TypeURL: "type.googleapis.com/envoy.config.cluster.v3.Cluster", Name: "outbound|80||b.com", Reason: "HTTP/2"},
		{TypeURL: "x.RouteConfiguration", Name: "80", Reason: "virtual_hosts[a.com:80].routes[0]: r"},
		{TypeURL: "x.Listener", Name: "0.0.0.0_443", Reason: "filter_chains[0] (outbound|443||a.com): r"},
		{TypeURL: "x.Listener", Name: "l", Reason: "r"},
		{TypeURL: "x.Listener", Name: "192.0.2.7_80", Reason: "r"},
		{TypeURL: "x.Listener", Name: "192.0.2.8_80", Reason: "r"},
	}, set, known)
	var lines []string
	for _, i := range got {
		lines = append(lines, i.String())
	}
	want := []string{
		"<stdin>:1:1: warning: ServiceEntry default/a: the engine does not serve outbound|80||a.com (Cluster): r [DTR0024]",
		"<stdin>:1:1: warning: ServiceEntry default/a: the engine does not serve 80 (RouteConfiguration): virtual_hosts[a.com:80].routes[0]: r [DTR0024]",
		"<stdin>:1:1: warning: ServiceEntry default/a: the engine does not serve 0.0.0.0_443 (Listener): filter_chains[0] (outbound|443||a.com): r [DTR0024]",
		"warning: the engine does not serve l (Listener): r [DTR0024]",
		"<stdin>:11:1: warning: ServiceEntry default/c: the engine does not serve 192.0.2.7_80 (Listener): r [DTR0024]",
		"warning: the engine does not serve 192.0.2.8_80 (Listener): r [DTR0024]",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got %s", strings.Join(lines, "\n"))
	}
}

func TestLoadErrors(t *testing.T) {
	src := &fake{files: []source.File{{Name: "a.yaml", Data: []byte("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\nspec: {resolution: DNS}\n")}}}
	sink := &refusingSink{}
	translate := func(*config.Set, xds.NodeGroup) (*xds.Snapshot, []config.Issue) {
		return &xds.Snapshot{Version: "v"}, nil
	}
	p := New(Config{Source: src, Translate: translate, Sink: sink, Log: slog.New(slog.DiscardHandler)})
	var bad Errors
	if err := p.Load(t.Context()); !errors.As(err, &bad) || len(bad) != 1 || !strings.HasPrefix(err.Error(), "a.yaml:4:1: error: ServiceEntry default/x: spec.hosts") || sink.sets != 0 {
		t.Errorf("%v, %d sets", err, sink.sets)
	}
	p = New(Config{Source: src, Translate: translate, Sink: sink, KeepGoing: true, Log: slog.New(slog.DiscardHandler)})
	if err := p.Load(t.Context()); err != nil || sink.sets != 1 {
		t.Errorf("%v, %d sets", err, sink.sets)
	}
	if s := p.Status(); s.Rejected != 1 || s.Version != "v" || len(s.Set.Refused()) != 1 {
		t.Errorf("status %+v", s)
	}
	if err := New(Config{}).Run(t.Context()); err == nil {
		t.Error("Run before Load did not fail")
	}
}

// TestLoadNothing: a configuration without any object is served, and said to be empty.
func TestLoadNothing(t *testing.T) {
	for text, said := range map[string]bool{"": true, "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\n": true,
		"kind: ServiceEntry\napiVersion: networking.istio.io/v1\nmetadata: {name: x}\nspec: {hosts: [x.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n": false} {
		var log bytes.Buffer
		src := &fake{files: []source.File{{Name: "a.yaml", Data: []byte(text)}}}
		translate := func(*config.Set, xds.NodeGroup) (*xds.Snapshot, []config.Issue) {
			return &xds.Snapshot{Version: "v"}, nil
		}
		p := New(Config{Source: src, Translate: translate, Sink: &refusingSink{}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err := p.Load(t.Context()); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(log.String(), "the configuration is empty"); got != said {
			t.Errorf("%q: said to be empty: %v", text, got)
		}
	}
}

func TestLoadOnce(t *testing.T) {
	in := walkthrough(t, "1-service-entry") + "---\n" + walkthrough(t, "2-destination-rule") + "---\napiVersion: v1\nkind: ConfigMap\n"
	set, issues, err := LoadOnce([]string{"-"}, strings.NewReader(in))
	if err != nil || len(issues) != 0 || set.Len() != 2 {
		t.Fatalf("%v %v %v", set, issues, err)
	}
	if v, ok := set.VIPs("MyDB.com"); !ok || !prefix4.Contains(v.V4) || !prefix6.Contains(v.V6) {
		t.Errorf("addresses %v", v)
	}
	if got := set.All(config.ServiceEntry)[0].Origin.String(); got != "<stdin>:1:1" {
		t.Errorf("origin %s", got)
	}
	set, issues, err = LoadOnce([]string{"no-such-file.yaml", "-"}, strings.NewReader(in+"---\nkind: Nothing\n"))
	if err != nil || set.Len() != 2 || len(issues) < 2 || !slices.ContainsFunc(issues, func(i config.Issue) bool {
		return strings.HasPrefix(i.String(), "no-such-file.yaml: error: can't be read")
	}) {
		t.Errorf("beside a file that is not there: %v %v", issues, err)
	}
	folder := t.TempDir()
	for _, sub := range []string{"none", "full"} {
		if err := os.Mkdir(filepath.Join(folder, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "full", "a.yaml"), []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"full": "", "full/": "", "full/a.yaml": "",
		"none": folder + "/none: warning: no object was found: there is no *.yaml, *.yml or *.json in this directory, and its subfolders are not read [DTR0025]",
		"":     folder + "/: warning: no object was found: there is no *.yaml, *.yml or *.json in this directory, and its subfolders are not read [DTR0025]",
	} {
		_, issues, err := LoadOnce([]string{folder + "/" + path, "-"}, strings.NewReader("# nothing\n"))
		if len(issues) > 0 != (want != "") || err != nil || want != "" && issues[0].String() != want {
			t.Errorf("%q: %v %v, want %s", path, issues, err, want)
		}
	}
	if _, issues, err := LoadOnce([]string{"-"}, strings.NewReader("# nothing\n")); err != nil || len(issues) != 1 || issues[0].String() != "<stdin>:1:1: warning: no object was found [DTR0025]" {
		t.Errorf("an empty file: %v %v", issues, err)
	}
	if _, _, err := LoadOnce(nil, nil); err == nil {
		t.Error("no path, no error")
	}
	if _, issues, err := LoadOnce([]string{"-"}, nil); err != nil || len(errorsOf(issues)) != 1 {
		t.Errorf("no standard input: %v %v", issues, err)
	}
}
