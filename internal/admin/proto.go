package admin

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/cncf/xds/go/udpa/annotations"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"

	// Types that stand inside Any in the resources that detour makes or takes; only known ones can be shown.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// writeProto answers with proto JSON as Envoy prints it: field names in snake_case, one space of indent, defaults left out
// unless all is set.
func writeProto(w http.ResponseWriter, m proto.Message, all bool) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: all}.Marshal(m)
	if err != nil {
		fail(w, http.StatusInternalServerError, "can't be shown as JSON: "+err.Error())
		return
	}
	var b bytes.Buffer
	// protojson varies its white space from build to build on purpose; Indent makes it the same everywhere.
	if err := json.Indent(&b, raw, "", " "); err != nil {
		fail(w, http.StatusInternalServerError, "can't be shown as JSON: "+err.Error())
		return
	}
	b.WriteByte('\n')
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
}

// pack puts a message into an Any. A message that can't be encoded (invalid UTF-8, which decode refuses earlier) becomes
// an empty one of its type.
func pack(m proto.Message) *anypb.Any {
	b, _ := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(m)
	return &anypb.Any{TypeUrl: typePrefix + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}

// redacted gives a copy of a resource without secrets, and with what is of an unknown type replaced by its name.
func redacted[M proto.Message](m M) M {
	c := proto.Clone(m).(M)
	redact(c.ProtoReflect(), false)
	return c
}

const secret = "[redacted]"

// redact blanks every string and byte field that Envoy's API marks as sensitive (udpa.annotations.sensitive), and all
// that hangs below one.
func redact(m protoreflect.Message, sensitive bool) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		redactAny(a, sensitive)
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		s := sensitive || isSensitive(f)
		switch {
		case f.IsMap():
			redactMap(f, v.Map(), s)
		case f.IsList():
			redactList(f, v.List(), s)
		case f.Message() != nil:
			redact(m.Mutable(f).Message(), s)
		case s:
			if r, ok := blank(f); ok {
				m.Set(f, r)
			}
		}
		return true
	})
}

func redactAny(a *anypb.Any, sensitive bool) {
	inner, err := a.UnmarshalNew()
	if err != nil { // nobody knows what it holds, and JSON could not show it
		x := pack(unknownType())
		a.TypeUrl, a.Value = x.TypeUrl, x.Value
		return
	}
	redact(inner.ProtoReflect(), sensitive)
	x := pack(inner)
	a.TypeUrl, a.Value = x.TypeUrl, x.Value
}

func redactMap(f protoreflect.FieldDescriptor, m protoreflect.Map, sensitive bool) {
	value := f.MapValue()
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if value.Message() != nil {
			redact(m.Mutable(k).Message(), sensitive)
		} else if r, ok := blank(value); ok && sensitive {
			m.Set(k, r)
		}
		return true
	})
}

func redactList(f protoreflect.FieldDescriptor, l protoreflect.List, sensitive bool) {
	for i := range l.Len() {
		if f.Message() != nil {
			redact(l.Get(i).Message(), sensitive)
		} else if r, ok := blank(f); ok && sensitive {
			l.Set(i, r)
		}
	}
}

func blank(f protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(secret), true
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(secret)), true
	}
	return protoreflect.Value{}, false
}

func isSensitive(f protoreflect.FieldDescriptor) bool {
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	if !ok || o == nil || !proto.HasExtension(o, annotations.E_Sensitive) {
		return false
	}
	s, _ := proto.GetExtension(o, annotations.E_Sensitive).(bool)
	return s
}
