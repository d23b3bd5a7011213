package admin

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"detour.dev/detour/internal/xds"
)

// TestWholeDump: remembered texts make the same dump as writing all of it, however often and whatever changed.
func TestWholeDump(t *testing.T) {
	host := func(name string) *routev3.VirtualHost {
		return &routev3.VirtualHost{Name: name, Domains: []string{name}}
	}
	a, b := host("a"), host("b \"} \n")
	c := &clusterv3.Cluster{Name: "outbound|80||a"}
	snapshots := []*xds.Snapshot{
		{},
		{Version: "1", Clusters: []*clusterv3.Cluster{c}},
		{Version: "2", Clusters: []*clusterv3.Cluster{c, {Name: "two", AltStatName: "x"}},
			Listeners: []*listenerv3.Listener{{Name: "0.0.0.0_80"}, {Name: "l\"2"}},
			Routes:    []*routev3.RouteConfiguration{{Name: "80", VirtualHosts: []*routev3.VirtualHost{a, b}}, {Name: "81"}}},
		{Version: "3", Clusters: []*clusterv3.Cluster{c},
			Routes: []*routev3.RouteConfiguration{{Name: "80", VirtualHosts: []*routev3.VirtualHost{a, host("c")}, IgnorePortInHostMatching: true}}},
	}
	f := &fakeState{}
	h := &Handler{opt: Options{Node: &corev3.Node{Id: "x"}}, state: f}
	f.endpoints = []*endpointv3.ClusterLoadAssignment{{ClusterName: "outbound|80||a"}, {ClusterName: "b"}}
	rejections := [][]Rejected{nil, {
		{TypeURL: clusterType, Name: "two", Reason: "no"}, {TypeURL: clusterType, Name: "80 gone", Reason: "no"}, {Name: "ServiceEntry x/y 8x", Origin: "f:1"},
		{TypeURL: endpointType, Name: "b", Reason: "no"}, {TypeURL: listenerType, Name: "0.0.0.0_80", Reason: "no"},
		{TypeURL: listenerType, Name: "gone_80", Reason: "no"}, {TypeURL: routeType, Name: "81", Reason: "no"}, {TypeURL: routeType, Name: "82", Reason: "no"},
	}}
	for round := range 2 {
		for _, s := range snapshots {
			f.snapshot = s
			for _, names := range []*regexp.Regexp{nil, regexp.MustCompile("^.*8.$")} {
				for _, withEndpoints := range []bool{false, true} {
					for _, f.rejected = range rejections {
						compareDumps(t, h, names, withEndpoints)
						if t.Failed() {
							t.Fatalf("round %d, version %s, names %v, endpoints %t, rejected %v", round, s.Version, names, withEndpoints, f.rejected)
						}
					}
				}
			}
		}
	}
}

// compareDumps holds a dump against one that is written as a whole.
func compareDumps(t *testing.T, h *Handler, names *regexp.Regexp, withEndpoints bool) {
	t.Helper()
	got, want := httptest.NewRecorder(), httptest.NewRecorder()
	if err := h.wholeDump(got, names, withEndpoints); err != nil {
		t.Fatal(err)
	}
	d := h.newDump(names)
	var endpoints *adminv3.EndpointsConfigDump
	if withEndpoints {
		var all []*endpointv3.ClusterLoadAssignment
		for _, x := range h.state.Endpoints() {
			if d.wants(x.EndpointsName()) {
				all = append(all, x.Endpoints())
			}
		}
		endpoints = d.endpoints(all)
	}
	writeSections(want, h.sections(d, endpoints))
	if got.Body.String() != want.Body.String() {
		t.Errorf("%s\nwant\n%s", got.Body, want.Body)
	}
	if n := got.Header().Get("Content-Length"); n != strconv.Itoa(want.Body.Len()) {
		t.Errorf("Content-Length %s for %d bytes", n, want.Body.Len())
	}
}

// TestTexts: a text that is kept short reads as it was.
func TestTexts(t *testing.T) {
	f := filler{rand.New(rand.NewPCG(1, 2))}
	var r remembered
	var written [][]byte
	var keys []any
	var w jsonWriter
	for i := range 300 {
		m := &clusterv3.Cluster{Name: strconv.Itoa(i), AltStatName: "same for all", CircuitBreakers: &clusterv3.CircuitBreakers{}}
		if i%50 == 7 {
			f.fill(m.ProtoReflect(), 3)
		}
		b, err := w.write(m, 5)
		if err != nil {
			b = nil
		}
		written, keys = append(written, bytes.Clone(b)), append(keys, m)
	}
	calls := 0
	texts := func(keys []any, first int) []text {
		var mu sync.Mutex
		out, err := r.of(keys, func(_ *jsonWriter, i int) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return written[first+i], nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range out {
			if got := out[i].appendTo(nil); !bytes.Equal(got, written[first+i]) || out[i].size != len(got) {
				t.Fatalf("%d:\n%s\nwant\n%s", i, got, written[first+i])
			}
		}
		return out
	}
	short := 0
	for _, x := range texts(keys, 0) {
		short += len(x.parts)
	}
	if all := len(bytes.Join(written, nil)); short > all*3/4 {
		t.Errorf("%d bytes were kept as %d", all, short)
	}
	before := calls
	texts(keys, 0)
	if calls != before {
		t.Errorf("%d texts were written again", calls-before)
	}
	texts(keys[100:], 100)
	if calls != before || len(r.known) != 200 {
		t.Errorf("%d texts were written again, %d are remembered", calls-before, len(r.known))
	}
	texts([]any{nil, keys[2], nil}, 1)
	if calls < before+3 || len(r.known) != 1 {
		t.Errorf("%d texts were written again, %d are remembered", calls-before, len(r.known))
	}
	if _, err := r.of([]any{1, 2}, func(*jsonWriter, int) ([]byte, error) { return nil, errors.New("x") }); err == nil {
		t.Error("an error got lost")
	}
}

// TestDumpShowsTheNewest: what comes into force while a dump is made is in it.
func TestDumpShowsTheNewest(t *testing.T) {
	f := &changing{snapshots: []*xds.Snapshot{{Version: "one"}, {Version: "two"}}}
	h := &Handler{state: f}
	w := httptest.NewRecorder()
	if err := h.wholeDump(w, nil, false); err != nil || !strings.Contains(w.Body.String(), `"version_info": "two"`) {
		t.Errorf("%v %s", err, w.Body)
	}
}

// changing gives another snapshot each time, the last one for ever.
type changing struct {
	fakeState
	snapshots []*xds.Snapshot
}

func (c *changing) Snapshot() (*xds.Snapshot, time.Time) {
	s := c.snapshots[0]
	if len(c.snapshots) > 1 {
		c.snapshots = c.snapshots[1:]
	}
	return s, applied
}
