// Package validate judges one object, alone, as istiod's own validation does, and warns by name of what the embedded
// engine does not serve. It never looks at other objects (analyze does), does no I/O and changes nothing.
package validate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// Verdict is what became of one object.
type Verdict struct {
	Issues []config.Issue
	// Rejected: an issue is an error, the object can't be served.
	Rejected bool
	// Ignored: the object is right and has no business with outbound traffic here; a note says why.
	Ignored bool
}

// Moved gives the verdict on an object that stands as many lines further down.
func (v Verdict) Moved(lines int) Verdict {
	v.Issues = slices.Clone(v.Issues)
	for i := range v.Issues {
		v.Issues[i] = v.Issues[i].Moved(lines)
	}
	return v
}

// Object judges one object that decode made.
func Object(o *config.Object) Verdict {
	switch o.Kind {
	case config.Service, config.EndpointSlice, config.Node:
		return Verdict{} // a cluster's own, judged there
	}
	c := &checker{o: o}
	c.annotations()
	switch spec := o.Spec.(type) {
	case *networking.ServiceEntry:
		c.serviceEntry(spec)
	case *networking.DestinationRule:
		c.destinationRule(spec)
	case *networking.VirtualService:
		c.virtualService(spec)
		if gatewaysOnly(spec) && !c.rejected {
			c.issues = nil // what would be said of it is nobody's business here
			c.add(config.Note, config.CodeKindIgnored, "spec.gateways", "ignored: bound to gateways only, so it says nothing about outbound traffic outside a mesh; add \"mesh\" to have it")
			return Verdict{Issues: c.issues, Ignored: true}
		}
	case *networking.WorkloadEntry:
		c.workloadEntry(spec)
	case *networking.Sidecar:
		c.sidecar(spec)
	}
	if o.Spec != nil {
		c.refusals(o.Spec.ProtoReflect())
	}
	return Verdict{Issues: c.issues, Rejected: c.rejected}
}

// checker collects the issues of one object.
type checker struct {
	o      *config.Object
	issues []config.Issue
	// rejected: there is an error among the issues.
	rejected bool
}

// maxIssues bounds what is said of one object. The first error is always said: it rejects the object.
const maxIssues = 100

func (c *checker) add(s config.Severity, code, path, format string, args ...any) {
	if len(c.issues) >= maxIssues && (c.rejected || s != config.Error) {
		return
	}
	c.rejected = c.rejected || s == config.Error
	c.issues = append(c.issues, config.Issue{
		Severity: s, Code: code, Object: c.o.Key, Origin: c.o.At(path), Field: path, Message: fmt.Sprintf(format, args...),
	})
}

func (c *checker) errorf(code, path, format string, args ...any) {
	c.add(config.Error, code, path, format, args...)
}

func (c *checker) warnf(code, path, format string, args ...any) {
	c.add(config.Warning, code, path, format, args...)
}

// duration demands at least 1 ms and no finer precision, as istiod does (ValidateDuration); unset is fine.
func (c *checker) duration(code, path string, d *durationpb.Duration) {
	if d == nil {
		return
	}
	switch v := d.AsDuration(); {
	case v < time.Millisecond:
		c.errorf(code, path, "%s is too short; allowed: 1ms or more", v)
	case v%time.Millisecond != 0:
		c.errorf(code, path, "%s is too fine; durations have whole milliseconds", v)
	}
}

// durationOrOff is duration for fields where what is below 1 ms means "never".
func (c *checker) durationOrOff(code, path string, d *durationpb.Duration) {
	if d != nil && d.AsDuration().Milliseconds() != 0 {
		c.duration(code, path, d)
	}
}

// atLeastZero refuses negative numbers; path and values come in pairs.
func (c *checker) atLeastZero(code, path string, fields map[string]int32) {
	for _, name := range sortedKeys(fields) {
		if v := fields[name]; v < 0 {
			c.errorf(code, path+"."+name, "%d is negative; allowed: 0 or more", v)
		}
	}
}

func (c *checker) percent(code, path string, v int32) {
	if v < 0 || v > 100 {
		c.errorf(code, path, "%d is out of range; allowed: 0 to 100", v)
	}
}

func (c *checker) port(code, path string, n uint32) {
	if n < 1 || n > 65535 {
		c.errorf(code, path, "%d is out of range; allowed: 1 to 65535", n)
	}
}

// exportTo checks the namespaces an object is visible to (istiod's validateExportTo).
func (c *checker) exportTo(list []string) {
	seen := map[string]bool{}
	for i, ns := range list {
		path := fmt.Sprintf("spec.exportTo[%d]", i)
		key := ns
		if ns == "." {
			key = c.o.Namespace
		}
		switch {
		case seen[key] && key != ns:
			c.errorf(config.CodeExportTo, path, "\".\" is %s, which stands there already", key)
		case seen[key]:
			c.errorf(config.CodeExportTo, path, "%q stands there twice", ns)
		case ns == "~" && c.o.Kind != config.ServiceEntry:
			c.errorf(config.CodeExportTo, path, "\"~\" (to nobody) is for ServiceEntries only; allowed: \"*\", \".\" or namespaces")
		case ns != "." && ns != "*" && ns != "~" && !isLabel(ns):
			c.errorf(config.CodeExportTo, path, "%q is not a namespace; allowed: \"*\" (all), \".\" (its own) or namespaces", ns)
		}
		seen[key] = true
	}
	if seen["*"] && len(list) > 1 {
		c.errorf(config.CodeExportTo, "spec.exportTo", "has \"*\" (all) and others too; give \"*\" alone or the others without it")
	}
	if seen["~"] && len(list) > 1 {
		c.errorf(config.CodeExportTo, "spec.exportTo", "has \"~\" (to nobody) and others too")
	}
}

// labels checks a set of labels as istiod does (labels.Instance.Validate).
func (c *checker) labels(path string, labels map[string]string) {
	for _, k := range sortedKeys(labels) {
		if !isLabelKey(k) {
			c.errorf(config.CodeBadLabel, path, "%q is not a label's name; allowed: letters, digits, '-', '_', '.', at most 63, after an optional domain and '/'", k)
		}
		if v := labels[k]; v != "" && !isLabelValue(v) {
			c.errorf(config.CodeBadLabel, path, "%q of %q is not a label's value; allowed: letters, digits, '-', '_', '.'", v, k)
		}
	}
}

// selector checks the labels of a workloadSelector, which stands at path; field is what the kind calls them. One without
// labels selects every workload of the namespace, which istiod warns of.
func (c *checker) selector(path, field string, labels map[string]string) {
	if len(labels) == 0 {
		c.warnf(config.CodeBadLabel, path, "has no labels, so it selects every workload of namespace %s; give %s, or leave it out", c.o.Namespace, field)
	}
	for _, k := range sortedKeys(labels) {
		v := labels[k]
		switch {
		case k == "":
			c.errorf(config.CodeBadLabel, path+"."+field, "a label has no name")
		case strings.Contains(k+v, "*"):
			c.errorf(config.CodeBadLabel, path+"."+field, "%q: %q: wildcards are not allowed in a selector", k, v)
		case !isLabelKey(k) || v != "" && !isLabelValue(v):
			c.warnf(config.CodeBadLabel, path+"."+field, "%q: %q is no label that a workload can have, so it selects none", k, v)
		}
	}
}

// forbidden are annotations that istiod refuses on the kinds here.
var forbidden = []string{
	"istio.io/dry-run", "internal.istio.io/webhook-always-reject", "internal.istio.io/parents", "internal.istio.io/parent-namespace",
}

func (c *checker) annotations() {
	for _, a := range forbidden {
		if _, there := c.o.Annotations[a]; there {
			c.errorf(config.CodeBadMetadata, "metadata.annotations", "%q is not allowed on a %s; remove it", a, c.o.Kind)
		}
	}
}
