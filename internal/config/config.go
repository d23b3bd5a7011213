// Package config owns the nouns of the configuration: objects of Istio's traffic API, where they came from, what is
// wrong with them, and the immutable Set that the compiler reads. It does no I/O and judges nothing; decoding,
// validation, analysis and translation live in the folders below it.
//
// istio.io/api stays inside this tree. The data plane never sees these types: the waist between the two is
// internal/xds.
package config

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
)

// DefaultNamespace is the namespace of an object that names none (SEMANTICS T16: istiod's file source leaves it empty
// and then silently does not apply DestinationRules).
const DefaultNamespace = "default"

// RootNamespace is Istio's root configuration namespace (MeshConfig.rootNamespace's default).
const RootNamespace = "istio-system"

// Kind is the kind of a configuration object, spelled as in YAML.
type Kind string

// The kinds of networking.istio.io that detour compiles or refuses by name.
const (
	ServiceEntry    Kind = "ServiceEntry"
	DestinationRule Kind = "DestinationRule"
	VirtualService  Kind = "VirtualService"
	WorkloadEntry   Kind = "WorkloadEntry"
	Sidecar         Kind = "Sidecar"
)

// The kinds of Kubernetes that say where a service's endpoints are. Their objects hold what of them decides that, in
// Istio's terms: a Service is a ServiceEntry, an EndpointSlice a ServiceEntry with endpoints only, a Node a WorkloadEntry
// with its labels.
const (
	Service       Kind = "Service"
	EndpointSlice Kind = "EndpointSlice"
	Node          Kind = "Node"
)

// Labels of Kubernetes by which endpoints and services find each other.
const (
	// LabelService, on an EndpointSlice, names its Service.
	LabelService = "kubernetes.io/service-name"
	// LabelNode, on an endpoint, names the node it runs on.
	LabelNode = "kubernetes.io/hostname"
	// AnnotationDistribution, on a ServiceEntry or Service, keeps traffic near: PreferClose, PreferSameZone or PreferSameNode.
	AnnotationDistribution = "networking.istio.io/traffic-distribution"
	// LabelRegion and LabelZone, on a Node, say where it is.
	LabelRegion = "topology.kubernetes.io/region"
	LabelZone   = "topology.kubernetes.io/zone"
)

// ClusterDomain is what the names of Kubernetes Services end in.
const ClusterDomain = "svc.cluster.local"

// Key identifies an object. Namespace is never empty (see DefaultNamespace).
type Key struct {
	Kind      Kind
	Namespace string
	Name      string
}

// String gives "Kind namespace/name", the form used in every message.
func (k Key) String() string { return fmt.Sprintf("%s %s/%s", k.Kind, k.Namespace, k.Name) }

// Less orders keys by kind, namespace and name.
func (k Key) Less(o Key) bool {
	if k.Kind != o.Kind {
		return k.Kind < o.Kind
	}
	if k.Namespace != o.Namespace {
		return k.Namespace < o.Namespace
	}
	return k.Name < o.Name
}

// Origin is where an object, or a field of it, was read: a place in a file, or an object in a cluster.
type Origin struct {
	File   string // as the user named it; "<stdin>" for standard input
	Line   int    // 1-based; 0 when unknown
	Column int    // 1-based; 0 when unknown

	UID             string // Kubernetes metadata.uid, where the object came from a cluster
	ResourceVersion string
}

// String gives FILE:LINE:COLUMN, leaving out what is unknown, or uid@resourceVersion.
func (o Origin) String() string {
	if o.File == "" && o.UID != "" {
		return o.UID + "@" + o.ResourceVersion
	}
	var b strings.Builder
	b.WriteString(o.File)
	if o.Line > 0 {
		fmt.Fprintf(&b, ":%d", o.Line)
		if o.Column > 0 {
			fmt.Fprintf(&b, ":%d", o.Column)
		}
	}
	return b.String()
}

// Positions finds the place of a field inside the document an object was decoded from. The path is the field path
// used in messages ("spec.endpoints[1].ports"). When the field itself is absent it gives the nearest parent that is
// there. Implementations parse lazily: positions cost nothing until something is wrong.
type Positions interface {
	Position(fieldPath string) Origin
}

// Object is one decoded, typed configuration object. Objects are immutable once made.
type Object struct {
	Key
	APIVersion  string // e.g. "networking.istio.io/v1beta1"
	Labels      map[string]string
	Annotations map[string]string
	Created     time.Time // metadata.creationTimestamp; zero when absent
	Origin      Origin    // the document's first line
	Where       Positions // never nil for objects made by decode
	// Spec is *networking.ServiceEntry, *networking.DestinationRule, … of istio.io/api/networking/v1alpha3.
	Spec proto.Message
	// Status is the object's status where a Kubernetes API server wrote one (ServiceEntry.status.addresses); may be nil.
	Status proto.Message
}

// At gives the place of a field of the object, or the object's own where that is unknown.
func (o *Object) At(fieldPath string) Origin {
	if o.Where != nil {
		if p := o.Where.Position(fieldPath); p.Line > 0 {
			return p
		}
	}
	return o.Origin
}

// SameAs tells whether o is another reading of the very same object: equal in all but its place.
func (o *Object) SameAs(old *Object) bool {
	return o == old || o.Spec == old.Spec && o.Status == old.Status && o.Key == old.Key && o.APIVersion == old.APIVersion &&
		o.Created.Equal(old.Created) && maps.Equal(o.Labels, old.Labels) && maps.Equal(o.Annotations, old.Annotations)
}

// Moved gives the object as many lines further down in its file; Where must tell places from there already.
func (o *Object) Moved(lines int) *Object {
	out := *o
	out.Origin.Line += lines
	return &out
}

// Severity ranks an Issue.
type Severity int

// Severities, gravest first. A Note tells something worth knowing that --strict does not count.
const (
	Error Severity = iota
	Warning
	Note
)

// String gives "error", "warning" or "note".
func (s Severity) String() string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	}
	return "note"
}

// Issue is one finding about the configuration.
type Issue struct {
	Severity Severity
	Code     string // stable, "DTR0103"; every issue has one
	Object   Key    // zero for a problem of a whole file
	Origin   Origin
	Field    string // field path, "spec.trafficPolicy.outlierDetection"; may be empty
	Message  string // what is wrong and what is allowed; no trailing full stop
}

// String gives the one line that every command prints:
// FILE:LINE:COLUMN: severity: Kind namespace/name: field.path: message [CODE].
func (i Issue) String() string {
	var b strings.Builder
	if at := i.Origin.String(); at != "" {
		b.WriteString(at + ": ")
	}
	b.WriteString(i.Severity.String() + ": ")
	if i.Object != (Key{}) {
		b.WriteString(i.Object.String() + ": ")
	}
	if i.Field != "" {
		b.WriteString(i.Field + ": ")
	}
	b.WriteString(i.Message)
	if i.Code != "" {
		b.WriteString(" [" + i.Code + "]")
	}
	return b.String()
}

// Moved gives the issue as many lines further down in its file.
func (i Issue) Moved(lines int) Issue {
	if i.Origin.Line > 0 {
		i.Origin.Line += lines
	}
	return i
}

// Errorf makes an error about one field of an object.
func Errorf(o *Object, code, field, format string, args ...any) Issue {
	return newIssue(Error, o, code, field, format, args...)
}

// Warningf makes a warning about one field of an object.
func Warningf(o *Object, code, field, format string, args ...any) Issue {
	return newIssue(Warning, o, code, field, format, args...)
}

// Notef makes a note about one field of an object.
func Notef(o *Object, code, field, format string, args ...any) Issue {
	return newIssue(Note, o, code, field, format, args...)
}

// OneLine makes control characters, which values from files may hold, spaces: a message is one line.
func OneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func newIssue(s Severity, o *Object, code, field, format string, args ...any) Issue {
	return Issue{Severity: s, Code: code, Object: o.Key, Origin: o.At(field), Field: field, Message: OneLine(fmt.Sprintf(format, args...))}
}

// VIPs are the addresses allocated to a service host that states none (guarantee E6): at most one of each family,
// from 240.240.0.0/16 and 2001:2::/48. They are given out by the pipeline and are part of the Set, so that
// translation stays pure.
type VIPs struct {
	V4, V6 netip.Addr // zero when not allocated
}
