package admin

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/xds"
)

// texts remembers how resources read as JSON, by their pointers: they are immutable, and between two dumps few change.
// What the last dump did not show is forgotten.
type texts struct {
	mu         sync.Mutex
	last, next map[proto.Message]string
}

// of gives the text of a message that stands depth levels deep, secrets left out.
func (t *texts) of(m proto.Message, depth int, shown func() proto.Message) (string, error) {
	s, ok := t.last[m]
	if !ok {
		b, err := indented(shown(), depth)
		if err != nil {
			return "", err
		}
		s = string(b)
	}
	t.next[m] = s
	return s, nil
}

// indented gives proto JSON as writeProto does, for a message that stands depth levels deep.
func indented(m proto.Message, depth int) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Indent(&b, raw, strings.Repeat(" ", depth), " ")
	return b.Bytes(), err
}

// Depths at which resources stand in a dump.
const (
	entryDepth    = 4
	clusterDepth  = 5
	routesDepth   = 5
	hostDepth     = 7
	listenerDepth = 6
)

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

// held gives the text of a holder that stands depth levels deep.
func held(token string, depth int) (string, error) {
	b, err := indented(holder(token), depth)
	return string(b), err
}

// wholeDump writes what the dump's sections say, from remembered texts where it can; nothing may be left out or rejected.
func (h *Handler) wholeDump(w http.ResponseWriter, d *dump) error {
	parts, err := h.wholeTexts(d)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	for _, part := range parts {
		if _, err := io.WriteString(w, part); err != nil {
			return nil // the client is gone
		}
	}
	return nil
}

// wholeTexts gives the dump in pieces. Nothing is written here: a client that does not read must not hold the lock.
func (h *Handler) wholeTexts(d *dump) ([]string, error) {
	h.texts.mu.Lock()
	defer h.texts.mu.Unlock()
	h.texts.next = make(map[proto.Message]string, len(h.texts.last))
	s, token := d.snapshot, "detour "+rand.Text()
	names := []string{token + " cluster", token + " listener", token + " routes"}
	x := &dump{snapshot: one(s, names), applied: d.applied, hold: true}
	out := &adminv3.ConfigDump{}
	for _, m := range h.sections(x) {
		out.Configs = append(out.Configs, pack(m))
	}
	b, err := indented(out, 0)
	if err != nil {
		return nil, err
	}
	rest := string(b)
	var body []string
	list := func(name string, depth, n int, each func(i int) (string, string, error)) error {
		if n == 0 {
			return nil
		}
		t, err := cut(rest, name, entryDepth)
		if err != nil {
			return err
		}
		place, err := held(name, depth)
		if err != nil {
			return err
		}
		body = append(body, t.before)
		for i := range n {
			label, text, err := each(i)
			if err != nil {
				return err
			}
			before, after, ok := strings.Cut(t.element, place)
			if !ok {
				return fmt.Errorf("no place in the template")
			}
			if i > 0 {
				body = append(body, ",")
			}
			body = append(body, strings.Replace(before, jsonString(name), label, 1), text, after)
		}
		rest = t.after
		return nil
	}
	if err := list(names[0], clusterDepth, len(s.Clusters), func(i int) (string, string, error) {
		m := s.Clusters[i]
		text, err := h.texts.of(m, clusterDepth, func() proto.Message { return pack(redacted[*clusterv3.Cluster](m)) })
		return "", text, err
	}); err != nil {
		return nil, err
	}
	if err := list(names[1], listenerDepth, len(s.Listeners), func(i int) (string, string, error) {
		m := s.Listeners[i]
		text, err := h.texts.of(m, listenerDepth, func() proto.Message { return pack(redacted[*listenerv3.Listener](m)) })
		return jsonString(m.GetName()), text, err
	}); err != nil {
		return nil, err
	}
	if err := list(names[2], routesDepth, len(s.Routes), func(i int) (string, string, error) {
		text, err := h.texts.routes(s.Routes[i], token)
		return "", text, err
	}); err != nil {
		return nil, err
	}
	h.texts.last, h.texts.next = h.texts.next, nil
	return append(body, rest, "\n"), nil
}

// one gives a snapshot with one resource for each list that has any, which holds a token.
func one(s *xds.Snapshot, names []string) *xds.Snapshot {
	out := &xds.Snapshot{Version: s.Version}
	if len(s.Clusters) > 0 {
		out.Clusters = []*clusterv3.Cluster{{Name: names[0]}}
	}
	if len(s.Listeners) > 0 {
		out.Listeners = []*listenerv3.Listener{{Name: names[1]}}
	}
	if len(s.Routes) > 0 {
		out.Routes = []*routev3.RouteConfiguration{{Name: names[2]}}
	}
	return out
}

func jsonString(s string) string {
	b, _ := protojson.Marshal(wrapperspb.String(s))
	return string(b)
}

// routes gives the text of a route configuration, whose virtual hosts are remembered one by one.
func (t *texts) routes(rc *routev3.RouteConfiguration, token string) (string, error) {
	if s, ok := t.last[rc]; ok {
		t.next[rc] = s
		for _, vh := range rc.GetVirtualHosts() {
			if s, ok := t.last[vh]; ok {
				t.next[vh] = s
			}
		}
		return s, nil
	}
	head := &routev3.RouteConfiguration{}
	rc.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Name() != "virtual_hosts" {
			head.ProtoReflect().Set(fd, v)
		}
		return true
	})
	head = redacted(head)
	if len(rc.GetVirtualHosts()) > 0 {
		head.VirtualHosts = []*routev3.VirtualHost{{Name: token}}
	}
	b, err := indented(pack(head), routesDepth)
	if err != nil || len(rc.GetVirtualHosts()) == 0 {
		return string(b), err
	}
	tpl, err := cut(string(b), token, hostDepth)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString(tpl.before)
	for i, vh := range rc.GetVirtualHosts() {
		text, err := t.of(vh, hostDepth, func() proto.Message { return redacted(vh) })
		if err != nil {
			return "", err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString("\n" + strings.Repeat(" ", hostDepth) + text)
	}
	out.WriteString(tpl.after)
	t.next[rc] = out.String()
	return out.String(), nil
}
