package validate

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"detour.dev/detour/internal/config"
)

// Refusal is a field, or some values of one, that is right, that translate compiles and Envoy serves, and that the
// embedded engine refuses: the port or route it is about, alone.
type Refusal struct {
	Kind   config.Kind
	Field  string   // path without indices, "spec.ports.protocol"; "*" stands for any way from spec to the rest
	Values []string // in upper case, with a "*" at the end any that begin so; empty: any value that is not the field's default
	Why    string   // what it is and what requests get; no trailing full stop
}

// Refusals is everything that remains refused. What is not listed here is served, or is an error that the rest of this
// package finds.
var Refusals = []Refusal{
	{config.ServiceEntry, "spec.ports.protocol", []string{"HTTP2", "GRPC", "GRPC-WEB"},
		"HTTP/2 is not served by the embedded engine yet: requests that go to this port's endpoints get 501; those that a VirtualService sends to another host are served"},
	{config.DestinationRule, "*.connectionPool.http.h2UpgradePolicy", []string{"UPGRADE"},
		"HTTP/2 is not served by the embedded engine yet: requests to this host get 501"},
	{config.DestinationRule, "*.connectionPool.http.maxConcurrentStreams", nil,
		"is about HTTP/2, which is not served by the embedded engine yet"},
	{config.DestinationRule, "*.connectionPool.http.http2KeepAlive", nil,
		"is about HTTP/2, which is not served by the embedded engine yet"},
	{config.DestinationRule, "*.tunnel", nil,
		"CONNECT tunnels are not served by the embedded engine yet: connections to the TCP and TLS ports of this host are reset"},
}

// refusals warns of every field that is set and refused.
func (c *checker) refusals(m protoreflect.Message) {
	if mine := refusalsOf(c.o.Kind); len(mine) > 0 {
		c.refusalsIn(mine, "spec", "spec", m)
	}
}

func refusalsOf(kind config.Kind) (out []Refusal) {
	for _, r := range Refusals {
		if r.Kind == kind {
			out = append(out, r)
		}
	}
	return out
}

// refusalsIn walks one message; plain is its path without indices.
func (c *checker) refusalsIn(mine []Refusal, path, plain string, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		p, q := path+"."+fd.JSONName(), plain+"."+fd.JSONName()
		for _, r := range mine {
			if r.is(q, fd, m.Get(fd)) {
				c.warnf(config.CodeUnsupported, p, "%s", r.Why)
			}
		}
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			list := m.Get(fd).List()
			for j := range list.Len() {
				c.refusalsIn(mine, fmt.Sprintf("%s[%d]", p, j), q, list.Get(j).Message())
			}
		default:
			c.refusalsIn(mine, p, q, m.Get(fd).Message())
		}
	}
}

// is tells whether a field with that value is the one refused.
func (r *Refusal) is(path string, fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	if tail, any := strings.CutPrefix(r.Field, "*"); any && !strings.HasSuffix(path, tail) || !any && path != r.Field {
		return false
	}
	if len(r.Values) == 0 {
		return true
	}
	word := ""
	switch fd.Kind() {
	case protoreflect.StringKind:
		word = v.String()
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByNumber(v.Enum()); e != nil {
			word = string(e.Name())
		}
	}
	word = strings.ToUpper(word)
	return slices.ContainsFunc(r.Values, func(v string) bool {
		head, open := strings.CutSuffix(v, "*")
		return v == word || open && strings.HasPrefix(word, head)
	})
}
