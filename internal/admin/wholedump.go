package admin

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/xds"
)

// A dump of a large configuration is made of a frame, in which each list has one element that holds a token, and of the
// texts of its resources, which are remembered. Neither the messages nor the text of all of it are ever in memory at once.

// texts remembers how resources read as JSON.
type texts struct {
	mu                                    sync.Mutex // guards all below
	clusters, endpoints, listeners, hosts remembered
	w                                     jsonWriter
	spare                                 []segment // of a dump that was sent
}

// reuse takes back the segments of a dump.
func (t *texts) reuse(all []segment) {
	clear(all)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spare = all
}

// Depths at which resources stand in a dump.
const (
	entryDepth    = 4
	clusterDepth  = 5
	endpointDepth = 5
	routesDepth   = 5
	hostDepth     = 7
	listenerDepth = 6
)

// segment is a piece of a dump: what stands before a text, and the text.
type segment struct {
	before string
	text   text
}

// template is one element of a list of which there are many: the list was written with one that holds tokens.
type template struct{ before, element, after string }

// cut finds the element of a list around a token: it is an object depth levels deep.
func cut(text, token string, depth int) (template, error) {
	at := strings.Index(text, token)
	if at < 0 {
		return template{}, fmt.Errorf("no element in the template")
	}
	ind := "\n" + strings.Repeat(" ", depth)
	from, to := strings.LastIndex(text[:at], ind+"{"), strings.Index(text[at:], ind+"}")
	if from < 0 || to < 0 {
		return template{}, fmt.Errorf("no element in the template")
	}
	to += at + len(ind) + 1
	return template{text[:from], text[from:to], text[to:]}, nil
}

// holder is a message in whose place a text is to stand.
func holder(token string) *anypb.Any { return pack(wrapperspb.String(token)) }

// wholeDump answers with the dump's sections, from remembered texts where it can. What came into force while they were
// written is shown already: who polls after a change does not get the old once more.
func (h *Handler) wholeDump(w http.ResponseWriter, names *regexp.Regexp, withEndpoints bool) error {
	for again := true; ; again = false {
		d := h.newDump(names)
		var assigned []Assigned
		if withEndpoints {
			assigned = append([]Assigned{}, h.state.Endpoints()...)
		}
		all, err := h.wholeTexts(d, assigned)
		if err != nil {
			return err
		}
		now, _ := h.state.Snapshot()
		newest := !again || now == nil || now == d.snapshot
		if newest {
			writeSegments(w, all)
		}
		h.texts.reuse(all)
		if newest {
			return nil
		}
	}
}

// Warm prepares the texts of a dump, so that the first one does not take longer than others.
func (h *Handler) Warm() {
	if all, err := h.wholeTexts(h.newDump(nil), nil); err == nil {
		h.texts.reuse(all)
	}
}

// blockSize is how much is written at once, in bytes.
const blockSize = 128 << 10

func writeSegments(w http.ResponseWriter, all []segment) {
	size := 0
	for i := range all {
		size += len(all[i].before) + all[i].text.size
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	block := blocks.Get().(*[]byte)
	defer blocks.Put(block)
	writeBlocks(w, all, (*block)[:0])
}

// blocks are reused: a large configuration may be polled.
var blocks = sync.Pool{New: func() any {
	b := make([]byte, 0, blockSize+blockSize/4)
	return &b
}}

func writeBlocks(w io.Writer, all []segment, block []byte) {
	for i := range all {
		block = all[i].text.appendTo(append(block, all[i].before...))
		if len(block) >= blockSize || i == len(all)-1 {
			if _, err := w.Write(block); err != nil {
				return // the client is gone
			}
			block = block[:0]
		}
	}
}

// assembly puts a dump together.
type assembly struct {
	h     *Handler
	d     *dump
	token string
	out   []segment
	rest  string // of the frame, or of what stands around a text
}

// wholeTexts gives the dump in pieces. Nothing is sent here: a client that does not read must not hold the lock.
func (h *Handler) wholeTexts(d *dump, assigned []Assigned) ([]segment, error) {
	h.texts.mu.Lock()
	defer h.texts.mu.Unlock()
	a := &assembly{h: h, d: d, token: "detour " + rand.Text()}
	s := &xds.Snapshot{Version: d.snapshot.Version, Clusters: wanted(d, d.snapshot.Clusters), Listeners: wanted(d, d.snapshot.Listeners), Routes: wanted(d, d.snapshot.Routes)}
	var shown []Assigned
	for _, x := range assigned {
		if d.wants(x.EndpointsName()) {
			shown = append(shown, x)
		}
	}
	clusters, listeners := framed(d, clusterType, s.Clusters, (*dump).cluster), framed(d, listenerType, s.Listeners, (*dump).listener)
	routes, endpoints := framed(d, routeType, s.Routes, (*dump).route), d.failedEndpoints(shown)
	if err := a.frame(s, assigned != nil, len(shown)); err != nil {
		return nil, err
	}
	t := &h.texts
	a.out = slices.Grow(t.spare[:0], 16+len(s.Clusters)+len(shown)+len(s.Listeners)+manyHosts(s.Routes))
	t.spare = nil
	for _, list := range []func() error{
		func() error {
			return a.list(&t.clusters, len(s.Clusters), clusterDepth, clusters, func(i int) any { return s.Clusters[i] }, func(i int) proto.Message { return s.Clusters[i] })
		},
		func() error {
			return a.list(&t.endpoints, len(shown), endpointDepth, endpoints, func(i int) any { return shown[i].EndpointsVersion() }, func(i int) proto.Message { return shown[i].Endpoints() })
		},
		func() error {
			return a.list(&t.listeners, len(s.Listeners), listenerDepth, listeners, func(i int) any { return s.Listeners[i] }, func(i int) proto.Message { return s.Listeners[i] })
		},
		func() error { return a.routes(s.Routes, routes) },
	} {
		if err := list(); err != nil {
			return nil, err
		}
	}
	return append(a.out, segment{before: a.rest + "\n"}), nil
}

// wanted gives the resources whose names are asked for.
func wanted[M interface{ GetName() string }](d *dump, all []M) []M {
	if d.names == nil {
		return all
	}
	var out []M
	for _, m := range all {
		if d.wants(m.GetName()) {
			out = append(out, m)
		}
	}
	return out
}

func manyHosts(routes []*routev3.RouteConfiguration) (n int) {
	for _, rc := range routes {
		n += 1 + len(rc.GetVirtualHosts())
	}
	return n
}

// element gives one of a list with all that stands around its resource, a holder; nil: it is as the one in the frame.
type element func(i int, hold string) proto.Message

// framed tells which elements of a list are not as the one in the frame: those whose newer version was refused, and all
// that have a name of their own outside the resource.
func framed[M interface{ GetName() string }, E proto.Message](d *dump, typeURL string, all []M, make func(*dump, M, *adminv3.UpdateFailureState) E) element {
	failed := map[int]*adminv3.UpdateFailureState{}
	if len(d.rejected) > 0 {
		for i, m := range all {
			if f := d.take(typeURL, m.GetName()); f != nil {
				failed[i] = f
			}
		}
	}
	return func(i int, hold string) proto.Message {
		if failed[i] == nil && typeURL != listenerType {
			return nil
		}
		return make(&dump{snapshot: d.snapshot, applied: d.applied, hold: hold}, all[i], failed[i])
	}
}

func (d *dump) failedEndpoints(all []Assigned) element {
	failed := map[int]*adminv3.UpdateFailureState{}
	if len(d.rejected) > 0 {
		for i, x := range all {
			if f := d.take(endpointType, x.EndpointsName()); f != nil {
				failed[i] = f
			}
		}
	}
	return func(i int, hold string) proto.Message {
		if failed[i] == nil {
			return nil
		}
		return (&dump{hold: hold}).endpoint(nil, failed[i])
	}
}

// frame writes the dump with one element in each list that has any.
func (a *assembly) frame(s *xds.Snapshot, withEndpoints bool, assigned int) error {
	one := &xds.Snapshot{Version: s.Version}
	if len(s.Clusters) > 0 {
		one.Clusters = []*clusterv3.Cluster{{Name: a.token}}
	}
	if len(s.Listeners) > 0 {
		one.Listeners = []*listenerv3.Listener{{Name: a.token}}
	}
	if len(s.Routes) > 0 {
		one.Routes = []*routev3.RouteConfiguration{{Name: a.token}}
	}
	x := &dump{snapshot: one, applied: a.d.applied, rejected: a.d.rejected, names: a.d.names, hold: a.token}
	var endpoints *adminv3.EndpointsConfigDump
	if withEndpoints {
		endpoints = x.endpoints(make([]*endpointv3.ClusterLoadAssignment, min(assigned, 1)))
	}
	out := &adminv3.ConfigDump{}
	for _, m := range a.h.sections(x, endpoints) {
		out.Configs = append(out.Configs, pack(m))
	}
	b, err := a.h.texts.w.write(out, 0)
	a.rest = string(b)
	return err
}

// around gives what stands before and after the resource of each element of the list that comes next in the frame.
func (a *assembly) around(depth int, own element) (each func(i int) (before, after string, err error), after string, err error) {
	t, err := cut(a.rest, a.token, entryDepth)
	if err != nil {
		return nil, "", err
	}
	a.rest = t.before
	place, err := a.h.texts.w.write(holder(a.token), depth)
	if err != nil {
		return nil, "", err
	}
	held := string(place)
	before, behind, ok := strings.Cut(t.element, held)
	if !ok {
		return nil, "", fmt.Errorf("no place in the template")
	}
	return func(i int) (string, string, error) {
		m := own(i, a.token)
		if m == nil {
			return before, behind, nil
		}
		b, err := a.h.texts.w.write(m, entryDepth)
		x, y, _ := strings.Cut(string(b), held)
		return "\n" + strings.Repeat(" ", entryDepth) + x, y, err
	}, t.after, nil
}

// add appends a text with what stands before it.
func (a *assembly) add(before string, t text) {
	a.out = append(a.out, segment{a.rest + before, t})
	a.rest = ""
}

// list writes the resources of a list, with what stands around them.
func (a *assembly) list(known *remembered, n, depth int, own element, key func(i int) any, resource func(i int) proto.Message) error {
	if n == 0 {
		return nil
	}
	keys := make([]any, n)
	for i := range keys {
		keys[i] = key(i)
	}
	texts, err := known.of(keys, func(w *jsonWriter, i int) ([]byte, error) { return w.writeAny(resource(i), depth) })
	if err != nil {
		return err
	}
	each, end, err := a.around(depth, own)
	if err != nil {
		return err
	}
	var between, head, tail string // of the elements that are as the frame's, put together once
	for i := range n {
		before, after, err := each(i)
		if err != nil {
			return err
		}
		if i == 0 || before != head || a.rest != tail {
			if i > 0 {
				a.rest += ","
			}
			head, tail = before, after
			between = after + "," + before
			a.add(before, texts[i])
		} else {
			a.out = append(a.out, segment{between, texts[i]})
		}
		a.rest = after
	}
	a.rest += end
	return nil
}

// routes writes route configurations, whose virtual hosts are remembered one by one.
func (a *assembly) routes(all []*routev3.RouteConfiguration, own element) error {
	if len(all) == 0 {
		return nil
	}
	hosts := make([]*routev3.VirtualHost, 0, manyHosts(all))
	keys := make([]any, 0, cap(hosts))
	for _, rc := range all {
		for _, vh := range rc.GetVirtualHosts() {
			hosts, keys = append(hosts, vh), append(keys, vh)
		}
	}
	texts, err := a.h.texts.hosts.of(keys, func(w *jsonWriter, i int) ([]byte, error) { return w.write(hosts[i], hostDepth) })
	if err != nil {
		return err
	}
	each, end, err := a.around(routesDepth, own)
	if err != nil {
		return err
	}
	for i, rc := range all {
		before, after, err := each(i)
		if err != nil {
			return err
		}
		if i > 0 {
			before = "," + before
		}
		n := len(rc.GetVirtualHosts())
		if err := a.hosts(rc, before, after, texts[:n]); err != nil {
			return err
		}
		texts = texts[n:]
	}
	a.rest += end
	return nil
}

// hosts writes one route configuration between before and after.
func (a *assembly) hosts(rc *routev3.RouteConfiguration, before, after string, texts []text) error {
	head := &routev3.RouteConfiguration{}
	rc.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Name() != "virtual_hosts" {
			head.ProtoReflect().Set(fd, v)
		}
		return true
	})
	if len(texts) > 0 {
		head.VirtualHosts = []*routev3.VirtualHost{{Name: a.token}}
	}
	b, err := a.h.texts.w.writeAny(head, routesDepth)
	if err != nil || len(texts) == 0 {
		a.rest += before + string(b) + after
		return err
	}
	t, err := cut(string(b), a.token, hostDepth)
	if err != nil {
		return err
	}
	place := "\n" + strings.Repeat(" ", hostDepth)
	next := "," + place
	a.add(before+t.before+place, texts[0])
	for _, x := range texts[1:] {
		a.out = append(a.out, segment{next, x})
	}
	a.rest = t.after + after
	return nil
}
