package admin

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// reference is how a message reads, made the slow way.
func reference(m proto.Message, depth int) (string, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(redacted(m))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = json.Indent(&b, raw, strings.Repeat(" ", depth), " ")
	return b.String(), err
}

// filler sets fields of messages at random.
type filler struct{ r *rand.Rand }

var fillerWords = []string{"", "a", "two words", "quote \" \\ \n\t\x01", "umlaut ä €", "<&>", "\u2028"}

func (f filler) fill(m protoreflect.Message, depth int) {
	switch x := m.Interface().(type) {
	case *anypb.Any:
		f.any(x, depth)
		return
	case *durationpb.Duration:
		x.Seconds, x.Nanos = int64(f.r.IntN(1000)), int32(f.r.IntN(3)*f.r.IntN(1e9))
		return
	}
	if m.Descriptor().FullName() == "google.protobuf.Timestamp" || m.Descriptor().FullName() == "google.protobuf.FieldMask" {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		must := fd.ContainingOneof() != nil && m.Descriptor().FullName() == "google.protobuf.Value"
		if !must && f.r.IntN(4) != 0 || depth > 6 && !must {
			continue
		}
		switch {
		case fd.IsMap():
			for range f.r.IntN(4) {
				k := protoreflect.ValueOfString(fillerWords[f.r.IntN(len(fillerWords))]).MapKey()
				if fd.MapKey().Kind() != protoreflect.StringKind {
					continue
				}
				m.Mutable(fd).Map().Set(k, f.value(fd.MapValue(), m.Mutable(fd).Map().NewValue, depth))
			}
		case fd.IsList():
			for range f.r.IntN(3) {
				m.Mutable(fd).List().Append(f.value(fd, m.Mutable(fd).List().NewElement, depth))
			}
		default:
			m.Set(fd, f.value(fd, func() protoreflect.Value { return m.NewField(fd) }, depth))
		}
	}
}

func (f filler) any(x *anypb.Any, depth int) {
	if f.r.IntN(5) == 0 {
		x.TypeUrl = "type.googleapis.com/nobody.knows"
		return
	}
	inner := []proto.Message{&tlsv3.UpstreamTlsContext{}, &hcmv3.HttpConnectionManager{}, durationpb.New(1e9), unknownType(), &anypb.Any{}}[f.r.IntN(5)]
	f.fill(inner.ProtoReflect(), depth+3)
	if a, ok := inner.(*anypb.Any); ok && a.TypeUrl == "" {
		a.TypeUrl = "type.googleapis.com/nobody.knows"
	}
	packed := pack(inner)
	x.TypeUrl, x.Value = packed.TypeUrl, packed.Value
}

func (f filler) value(fd protoreflect.FieldDescriptor, fresh func() protoreflect.Value, depth int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		v := fresh()
		f.fill(v.Message(), depth+1)
		return v
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fillerWords[f.r.IntN(len(fillerWords))])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(fillerWords[f.r.IntN(len(fillerWords))]))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(f.r.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(f.r.IntN(5)))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(f.r.IntN(1e6)) - 1000)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(f.r.IntN(1e15)) - 1000)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(f.r.Uint32())
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(f.r.Uint64())
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(f.r.NormFloat64()) * []float32{0, 1, 1e-9, 1e25}[f.r.IntN(4)])
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(f.r.NormFloat64() * []float64{0, 1, 1e-9, 1e25}[f.r.IntN(4)])
	}
	return fresh()
}

// TestJSONWriter: it writes what protojson, json.Indent and redact together write, for messages filled at random.
func TestJSONWriter(t *testing.T) {
	var w jsonWriter
	checked := 0
	for seed := range uint64(600) {
		f := filler{rand.New(rand.NewPCG(seed, 1))}
		all := []proto.Message{&clusterv3.Cluster{}, &routev3.RouteConfiguration{}, &listenerv3.Listener{}, &tlsv3.UpstreamTlsContext{}, &adminv3.ListenersConfigDump{}}
		m := all[seed%uint64(len(all))]
		f.fill(m.ProtoReflect(), 0)
		depth := int(seed % 7)
		want, wantErr := reference(m, depth)
		got, err := w.write(m, depth)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("seed %d: error %v, want %v", seed, err, wantErr)
		}
		if err != nil {
			continue
		}
		checked++
		if string(got) != want {
			t.Fatalf("seed %d:\n%s\nwant\n%s", seed, got, want)
		}
		want, _ = reference(pack(m), depth)
		if got, _ := w.writeAny(m, depth); string(got) != want {
			t.Fatalf("seed %d inside an Any:\n%s\nwant\n%s", seed, got, want)
		}
	}
	if checked < 300 {
		t.Errorf("only %d messages could be compared", checked)
	}
}

// TestJSONWriterRefuses: what protojson can't write, it does not write either.
func TestJSONWriterRefuses(t *testing.T) {
	var w jsonWriter
	if got, err := w.write(&clusterv3.Cluster{Name: "\xff"}, 0); err == nil {
		t.Errorf("%s", got)
	}
}
