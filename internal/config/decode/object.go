package decode

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

const networkingGroup = "networking.istio.io"

// served makes the message of each kind that is decoded.
var served = map[config.Kind]func() proto.Message{
	config.ServiceEntry:    func() proto.Message { return &networking.ServiceEntry{} },
	config.DestinationRule: func() proto.Message { return &networking.DestinationRule{} },
	config.VirtualService:  func() proto.Message { return &networking.VirtualService{} },
	config.WorkloadEntry:   func() proto.Message { return &networking.WorkloadEntry{} },
	config.Sidecar:         func() proto.Message { return &networking.Sidecar{} },
}

// versions are those that Istio serves of the traffic API; their fields are the same.
var versions = []string{"v1", "v1beta1", "v1alpha3"}

// noBusiness are the group's kinds that say nothing about outbound traffic outside a mesh.
var noBusiness = []string{"Gateway", "WorkloadGroup", "ProxyConfig"}

// refusedKinds change outbound traffic or what is told of it, and nothing here obeys them: a warning says so.
var refusedKinds = []string{"EnvoyFilter", "WasmPlugin", "Telemetry"}

// noBusinessGroups are Istio's other API groups.
var noBusinessGroups = []string{"security.istio.io", "telemetry.istio.io", "extensions.istio.io"}

// object is one object while it is read.
type object struct {
	r        *reader
	at       config.Positions
	origin   config.Origin
	key      config.Key
	problems []problem
}

// maxProblems bounds what is said of one object; who made more mistakes mends these first.
const maxProblems = 100

func (o *object) problem(code, path, format string, args ...any) {
	if len(o.problems) >= maxProblems {
		return
	}
	o.problems = append(o.problems, problem{code: code, path: path, message: fmt.Sprintf(format, args...)})
}

// warn records what is wrong and does not keep the object from being used.
func (o *object) warn(code, path, format string, args ...any) {
	if len(o.problems) < maxProblems {
		o.problems = append(o.problems, problem{severity: config.Warning, code: code, path: path, message: fmt.Sprintf(format, args...)})
	}
}

// failed tells whether a problem is an error.
func (o *object) failed() bool {
	return slices.ContainsFunc(o.problems, func(p problem) bool { return p.severity == config.Error })
}

// object reads one object, which stands at prefix in its document.
func (r *reader) object(d *document, prefix string, m map[string]any, duplicates []problem) {
	o := &object{r: r, at: d, origin: d.origin(), problems: duplicates}
	if prefix != "" {
		o.at = within{d, prefix}
		o.origin = d.Position(prefix)
	}
	if res, ok := o.kube(m); ok {
		if len(o.problems) == len(duplicates) {
			r.out.Objects = append(r.out.Objects, res)
			return
		}
		o.report(d, prefix, false, nil)
		return
	}
	kind, api, mine := o.kind(m)
	kind, api = interned(kind), interned(api)
	if !mine {
		o.report(d, prefix, len(o.problems) == len(duplicates), nil)
		return
	}
	res := &config.Object{APIVersion: api, Origin: o.origin, Where: o.at}
	o.key.Kind = config.Kind(kind)
	o.metadata(m, res)
	res.Key = o.key
	for _, k := range sortedKeys(m) {
		if !slices.Contains(topLevel, k) {
			o.problem(config.CodeUnknownField, keyPath("", k), "unknown field%s; allowed: %s", config.DidYouMean(k, topLevel), strings.Join(topLevel, ", "))
		}
	}
	res.Spec = served[o.key.Kind]()
	switch spec := m["spec"].(type) {
	case nil:
	case map[string]any:
		fill(o, "spec", spec, res.Spec.ProtoReflect())
	default:
		o.problem(config.CodeWrongType, "spec", "wants a mapping, got %s", describe(spec))
	}
	if w, ok := res.Spec.(*networking.WorkloadEntry); ok {
		mergeLabels(w, res.Labels)
	}
	if status, ok := m["status"].(map[string]any); ok && o.key.Kind == config.ServiceEntry {
		res.Status = serviceEntryStatus(status)
	}
	if !o.failed() {
		r.out.Objects = append(r.out.Objects, res)
		o.report(d, prefix, false, nil)
		return
	}
	r.out.Partial = append(r.out.Partial, newPartial(res, m, o.problems))
	o.report(d, prefix, false, hosts(m))
}

// words are strings that nearly every object holds: one copy of each does.
var words = func() map[string]string {
	out := map[string]string{}
	for _, v := range versions {
		out[networkingGroup+"/"+v] = networkingGroup + "/" + v
	}
	for k := range served {
		out[string(k)] = string(k)
	}
	return out
}()

func interned(s string) string {
	if w, ok := words[s]; ok {
		return w
	}
	return s
}

// mergeLabels adds metadata.labels to a WorkloadEntry's own; they count before them (istiod: ConvertWorkloadEntry).
func mergeLabels(w *networking.WorkloadEntry, labels map[string]string) {
	if w.Labels == nil && len(labels) > 0 {
		w.Labels = make(map[string]string, len(labels))
	}
	maps.Copy(w.Labels, labels)
}

var topLevel = []string{"apiVersion", "kind", "metadata", "spec", "status"}

// report records the object's problems. An object that is none of ours has at most notes.
func (o *object) report(d *document, prefix string, foreign bool, hosts []string) {
	var first *config.Issue
	for _, p := range o.problems {
		if foreign && p.code == config.CodeDuplicateKey {
			continue
		}
		at := o.at.Position(p.path)
		if p.occurrence > 0 {
			at = d.occurrence(join(prefix, p.path), p.occurrence)
		}
		i := config.Issue{Severity: p.severity, Code: p.code, Object: o.key, Origin: at, Field: p.path, Message: p.message}
		o.r.out.Issues = append(o.r.out.Issues, i)
		if first == nil && i.Severity == config.Error {
			first = &i
		}
	}
	if first == nil {
		return
	}
	if o.key.Kind == "" || o.key.Name == "" {
		o.r.out.Parsed = false
	}
	o.r.out.Refused = append(o.r.out.Refused, config.Refusal{Key: o.key, Hosts: hosts, Issue: *first})
}

// kind tells which kind the object is of, and whether it is one that is decoded.
func (o *object) kind(m map[string]any) (kind, api string, mine bool) {
	kind, okKind := m["kind"].(string)
	api, okAPI := m["apiVersion"].(string)
	if !okKind || !okAPI || kind == "" || api == "" {
		for _, f := range []string{"apiVersion", "kind"} {
			if v, there := m[f]; !there || v == nil || v == "" {
				o.problem(config.CodeNotAnObject, f, "is missing; every object has apiVersion, kind and metadata")
			} else if _, ok := v.(string); !ok {
				o.problem(config.CodeWrongType, f, "wants a string, got %s", describe(v))
			}
		}
		return kind, api, false
	}
	group, version, hasGroup := strings.Cut(api, "/")
	if !hasGroup {
		group, version = "", api
	}
	_, ours := served[config.Kind(kind)]
	switch {
	case group == networkingGroup:
		return kind, api, o.networkingKind(m, kind, version)
	case ours && (group == "" || config.Distance(group, networkingGroup, 4) <= 4):
		o.nameOnly(m, kind)
		o.problem(config.CodeBadAPIVersion, "apiVersion", "%s has no kind %s; it is of %s/%s", api, kind, networkingGroup, versions[0])
	case slices.Contains(noBusinessGroups, group) && slices.Contains(refusedKinds, kind):
		o.nameOnly(m, kind)
		o.refused(kind)
	case slices.Contains(noBusinessGroups, group):
		o.nameOnly(m, kind)
		o.note("ignored: %s says nothing about outbound traffic outside a mesh", kind)
	}
	return kind, api, false
}

// networkingKind judges kind and version of an object of networking.istio.io.
func (o *object) networkingKind(m map[string]any, kind, version string) (mine bool) {
	_, ours := served[config.Kind(kind)]
	switch {
	case kind == "EnvoyFilter":
		o.nameOnly(m, kind)
		o.refused(kind)
	case slices.Contains(noBusiness, kind):
		o.nameOnly(m, kind)
		o.note("ignored: %s says nothing about outbound traffic outside a mesh", kind)
	case !slices.Contains(versions, version):
		o.nameOnly(m, kind)
		o.problem(config.CodeBadAPIVersion, "apiVersion", "%s/%s does not exist; allowed: %s/ with %s", networkingGroup, version, networkingGroup, oneOf(versions))
	case ours:
		return true
	default:
		known := append(slices.Clone(noBusiness), "EnvoyFilter")
		for k := range served {
			known = append(known, string(k))
		}
		slices.Sort(known)
		o.problem(config.CodeUnknownKind, "kind", "%s has no kind %q%s", networkingGroup, kind, config.DidYouMean(kind, known))
	}
	return false
}

func (o *object) refused(kind string) {
	o.problems = append(o.problems, problem{severity: config.Warning, code: config.CodeUnsupported, path: "kind",
		message: kind + " is ignored: neither translate nor the embedded engine knows what it asks for"})
}

func (o *object) note(format string, args ...any) {
	o.problems = append(o.problems, problem{severity: config.Note, code: config.CodeKindIgnored, path: "kind", message: fmt.Sprintf(format, args...)})
}

// nameOnly reads the key of an object that is not decoded, for messages.
func (o *object) nameOnly(m map[string]any, kind string) {
	o.key = config.Key{Kind: config.Kind(kind), Namespace: config.DefaultNamespace}
	meta, _ := m["metadata"].(map[string]any)
	if n, ok := meta["namespace"].(string); ok && n != "" {
		o.key.Namespace = n
	}
	o.key.Name, _ = meta["name"].(string)
}

// metadataFields are those of Kubernetes' ObjectMeta; only the first four and the creation time mean anything here.
var metadataFields = []string{
	"name", "namespace", "labels", "annotations", "creationTimestamp", "generateName", "selfLink", "uid", "resourceVersion",
	"generation", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers", "managedFields", "clusterName",
}

func (o *object) metadata(m map[string]any, res *config.Object) {
	o.key.Namespace = config.DefaultNamespace
	meta, ok := m["metadata"].(map[string]any)
	if !ok {
		if m["metadata"] == nil {
			o.problem(config.CodeBadMetadata, "metadata.name", "is missing")
		} else {
			o.problem(config.CodeWrongType, "metadata", "wants a mapping, got %s", describe(m["metadata"]))
		}
		return
	}
	for _, k := range sortedKeys(meta) {
		if !slices.Contains(metadataFields, k) {
			o.problem(config.CodeUnknownField, keyPath("metadata", k), "unknown field%s", config.DidYouMean(k, metadataFields))
		}
	}
	if ns := o.metaString(meta, "namespace"); ns != "" {
		o.key.Namespace = ns
		if !isLabel(ns) {
			o.problem(config.CodeBadMetadata, "metadata.namespace", "%s is no namespace; allowed: lower case letters, digits and '-', at most 63", quote(ns))
		}
	}
	if o.key.Name = o.metaString(meta, "name"); o.key.Name == "" && (meta["name"] == nil || meta["name"] == "") {
		o.problem(config.CodeBadMetadata, "metadata.name", "is missing")
	}
	res.Labels = o.metaMap(meta, "labels")
	res.Annotations = o.metaMap(meta, "annotations")
	if s, ok := meta["creationTimestamp"].(string); ok {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			o.problem(config.CodeBadMetadata, "metadata.creationTimestamp", "%s is not a time as in 2006-01-02T15:04:05Z", quote(s))
		}
		res.Created = t
	}
}

// labelForm is that of namespaces and Services, which become labels of host names (RFC 1123 label, as Kubernetes wants it).
var labelForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

func isLabel(s string) bool { return len(s) <= 63 && labelForm.MatchString(s) }

func (o *object) metaString(meta map[string]any, field string) string {
	switch v := meta[field].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		o.problem(config.CodeWrongType, "metadata."+field, "wants a string, got %s%s", describe(v), quoteHint(v))
		return ""
	}
}

func (o *object) metaMap(meta map[string]any, field string) map[string]string {
	v, ok := meta[field].(map[string]any)
	if !ok {
		if meta[field] != nil {
			o.problem(config.CodeWrongType, "metadata."+field, "wants a mapping, got %s", describe(meta[field]))
		}
		return nil
	}
	out := make(map[string]string, len(v))
	for _, k := range sortedKeys(v) {
		s, ok := v[k].(string)
		if !ok {
			o.problem(config.CodeWrongType, keyPath("metadata."+field, k), "wants a string, got %s", describe(v[k]))
		}
		out[k] = s
	}
	return out
}

// serviceEntryStatus reads what Istio's controller allocated. A status is no one's input: what can't be read is left out.
func serviceEntryStatus(m map[string]any) proto.Message {
	list, _ := m["addresses"].([]any)
	var s networking.ServiceEntryStatus
	for _, e := range list {
		a, _ := e.(map[string]any)
		value, _ := a["value"].(string)
		host, _ := a["host"].(string)
		if value != "" {
			s.Addresses = append(s.Addresses, &networking.ServiceEntryAddress{Value: value, Host: host})
		}
	}
	if len(s.Addresses) == 0 {
		return nil
	}
	return &s
}

// hosts gives the hosts an object names, as far as they can be read.
func hosts(m map[string]any) []string {
	spec, _ := m["spec"].(map[string]any)
	list, _ := spec["hosts"].([]any)
	if h, ok := spec["host"]; ok {
		list = append(list, h)
	}
	var out []string
	for _, h := range list {
		if s, ok := h.(string); ok && s != "" {
			out = append(out, strings.ToLower(s))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func sortedKeys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
