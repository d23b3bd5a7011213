package admin

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// jsonWriter writes messages as protojson and json.Indent do for writeProto: field names in snake_case, one space of
// indent, defaults left out. It leaves secrets out as redact does, without a copy of the message, and what is inside an Any
// it writes without encoding it again; that makes it several times as fast, and a dump of a large configuration takes no
// more memory than its text. The zero value is ready. It is not safe for concurrent use.
type jsonWriter struct {
	out   []byte
	stack []fieldValue // of the messages being written
	take  func(protoreflect.FieldDescriptor, protoreflect.Value) bool
	scale map[[2]int64]string // durations
	err   error
}

type fieldValue struct {
	fd protoreflect.FieldDescriptor
	v  protoreflect.Value
}

// custom is how a message of google.protobuf differs from others.
type custom uint8

const (
	plainMessage custom = iota
	anyMessage
	wrapperMessage
	structMessage
	listMessage
	valueMessage
	durationMessage
	emptyMessage
	scalarMessage // protojson writes it, as one string
)

var customs = map[protoreflect.FullName]custom{
	"google.protobuf.Any": anyMessage, "google.protobuf.Struct": structMessage, "google.protobuf.ListValue": listMessage,
	"google.protobuf.Value": valueMessage, "google.protobuf.Duration": durationMessage, "google.protobuf.Empty": emptyMessage,
	"google.protobuf.Timestamp": scalarMessage, "google.protobuf.FieldMask": scalarMessage,
	"google.protobuf.BoolValue": wrapperMessage, "google.protobuf.Int32Value": wrapperMessage, "google.protobuf.Int64Value": wrapperMessage,
	"google.protobuf.UInt32Value": wrapperMessage, "google.protobuf.UInt64Value": wrapperMessage, "google.protobuf.FloatValue": wrapperMessage,
	"google.protobuf.DoubleValue": wrapperMessage, "google.protobuf.StringValue": wrapperMessage, "google.protobuf.BytesValue": wrapperMessage,
}

// described is what is known of each field and message type.
var described sync.Map // protoreflect.FieldDescriptor → fieldInfo, protoreflect.MessageDescriptor → custom

type fieldInfo struct {
	name      string // "name": with its space
	sensitive bool
}

func infoOf(fd protoreflect.FieldDescriptor) fieldInfo {
	if x, ok := described.Load(fd); ok {
		return x.(fieldInfo)
	}
	x := fieldInfo{`"` + fd.TextName() + `": `, isSensitive(fd)}
	described.Store(fd, x)
	return x
}

func customOf(md protoreflect.MessageDescriptor) custom {
	if x, ok := described.Load(md); ok {
		return x.(custom)
	}
	x := customs[md.FullName()]
	described.Store(md, x)
	return x
}

// write gives a message that stands depth levels deep. The bytes are valid until the next call.
func (w *jsonWriter) write(m proto.Message, depth int) ([]byte, error) {
	w.out, w.err = w.out[:0], nil
	w.message(m.ProtoReflect(), depth, false)
	return w.out, w.err
}

// writeAny is write for a message inside an Any.
func (w *jsonWriter) writeAny(m proto.Message, depth int) ([]byte, error) {
	w.out, w.err = w.out[:0], nil
	w.inside(m.ProtoReflect(), depth, false)
	return w.out, w.err
}

const blanks = "\n                                                                                                                                "

func (w *jsonWriter) line(depth int) {
	if depth < len(blanks) {
		w.out = append(w.out, blanks[:depth+1]...)
		return
	}
	w.out = append(append(w.out, '\n'), strings.Repeat(" ", depth)...)
}

func (w *jsonWriter) message(m protoreflect.Message, depth int, sensitive bool) {
	switch customOf(m.Descriptor()) {
	case anyMessage:
		w.any(m, depth, sensitive)
	case wrapperMessage:
		fd := m.Descriptor().Fields().ByNumber(1)
		w.single(fd, m.Get(fd), depth, sensitive)
	case structMessage:
		fd := m.Descriptor().Fields().ByNumber(1)
		w.mapping(fd, m.Get(fd).Map(), depth, sensitive)
	case listMessage:
		fd := m.Descriptor().Fields().ByNumber(1)
		w.list(fd, m.Get(fd).List(), depth, sensitive)
	case valueMessage:
		w.value(m, depth, sensitive)
	case durationMessage:
		w.duration(m)
	case scalarMessage:
		w.scalar(m, sensitive)
	default:
		w.fields(m, "", depth, sensitive)
	}
}

// fields writes the fields of a message as an object, @type first where there is one.
func (w *jsonWriter) fields(m protoreflect.Message, typeURL string, depth int, sensitive bool) {
	from := len(w.stack)
	if w.take == nil {
		w.take = func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			w.stack = append(w.stack, fieldValue{fd, v})
			return true
		}
	}
	m.Range(w.take)
	all := w.stack[from:]
	slices.SortFunc(all, func(a, b fieldValue) int {
		switch {
		case !a.fd.IsExtension() && !b.fd.IsExtension():
			return cmp.Compare(a.fd.Index(), b.fd.Index())
		case a.fd.IsExtension() && b.fd.IsExtension():
			return cmp.Compare(a.fd.FullName(), b.fd.FullName())
		case a.fd.IsExtension():
			return 1
		}
		return -1
	})
	w.out = append(w.out, '{')
	if typeURL != "" {
		w.line(depth + 1)
		w.out = append(append(append(w.out, `"@type": "`...), typeURL...), '"')
	}
	for i := from; i < from+len(all); i++ { // the stack may move
		if i > from || typeURL != "" {
			w.out = append(w.out, ',')
		}
		w.line(depth + 1)
		fd, v := w.stack[i].fd, w.stack[i].v
		info := infoOf(fd)
		w.out = append(w.out, info.name...)
		s := sensitive || info.sensitive
		switch {
		case fd.IsMap():
			w.mapping(fd, v.Map(), depth+1, s)
		case fd.IsList():
			w.list(fd, v.List(), depth+1, s)
		default:
			w.single(fd, v, depth+1, s)
		}
	}
	if len(all) > 0 || typeURL != "" {
		w.line(depth)
	}
	w.out = append(w.out, '}')
	clear(w.stack[from:])
	w.stack = w.stack[:from]
}

func (w *jsonWriter) list(fd protoreflect.FieldDescriptor, l protoreflect.List, depth int, sensitive bool) {
	w.out = append(w.out, '[')
	n := l.Len()
	for i := range n {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.line(depth + 1)
		w.single(fd, l.Get(i), depth+1, sensitive)
	}
	if n > 0 {
		w.line(depth)
	}
	w.out = append(w.out, ']')
}

func (w *jsonWriter) mapping(fd protoreflect.FieldDescriptor, m protoreflect.Map, depth int, sensitive bool) {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, compareKeys)
	w.out = append(w.out, '{')
	for i, k := range keys {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.line(depth + 1)
		w.text(k.String())
		w.out = append(w.out, ": "...)
		w.single(fd.MapValue(), m.Get(k), depth+1, sensitive)
	}
	if len(keys) > 0 {
		w.line(depth)
	}
	w.out = append(w.out, '}')
}

// compareKeys orders strings by their bytes, numbers by value, false before true.
func compareKeys(a, b protoreflect.MapKey) int {
	switch x := a.Interface().(type) {
	case string:
		return cmp.Compare(x, b.String())
	case int32, int64:
		return cmp.Compare(a.Int(), b.Int())
	case uint32, uint64:
		return cmp.Compare(a.Uint(), b.Uint())
	}
	return cmp.Compare(a.String(), b.String()) // "false", "true"
}

// single writes a value that is neither list nor map.
func (w *jsonWriter) single(fd protoreflect.FieldDescriptor, v protoreflect.Value, depth int, sensitive bool) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		w.message(v.Message(), depth, sensitive)
	case protoreflect.StringKind:
		if sensitive {
			w.text(secret)
			return
		}
		w.text(v.String())
	case protoreflect.BytesKind:
		b := v.Bytes()
		if sensitive {
			b = []byte(secret)
		}
		w.out = append(base64.StdEncoding.AppendEncode(append(w.out, '"'), b), '"')
	case protoreflect.BoolKind:
		w.out = strconv.AppendBool(w.out, v.Bool())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		w.out = strconv.AppendInt(w.out, v.Int(), 10)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		w.out = strconv.AppendUint(w.out, v.Uint(), 10)
	case protoreflect.FloatKind:
		w.float(v.Float(), float32(v.Float()))
	case protoreflect.DoubleKind:
		w.float(v.Float(), v.Float())
	case protoreflect.EnumKind:
		w.enum(fd.Enum(), v.Enum())
	default: // 64 bits
		w.text(v.String())
	}
}

func (w *jsonWriter) enum(of protoreflect.EnumDescriptor, n protoreflect.EnumNumber) {
	if of.FullName() == "google.protobuf.NullValue" {
		w.out = append(w.out, "null"...)
	} else if x := of.Values().ByNumber(n); x != nil {
		w.text(string(x.Name()))
	} else {
		w.out = strconv.AppendInt(w.out, int64(n), 10)
	}
}

// float writes n, of the type of as.
func (w *jsonWriter) float(n float64, as any) {
	switch {
	case math.IsNaN(n):
		w.text("NaN")
	case math.IsInf(n, 1):
		w.text("Infinity")
	case math.IsInf(n, -1):
		w.text("-Infinity")
	default:
		b, err := json.Marshal(as)
		w.out = append(w.out, b...)
		w.fail(err)
	}
}

// text writes a string.
func (w *jsonWriter) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			b, err := protojson.Marshal(wrapperspb.String(s)) // an error where it is not UTF-8
			w.out = append(w.out, b...)
			w.fail(err)
			return
		}
	}
	w.out = append(append(append(w.out, '"'), s...), '"')
}

func (w *jsonWriter) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// any writes what is inside; what is of an unknown type is replaced as redact does.
func (w *jsonWriter) any(m protoreflect.Message, depth int, sensitive bool) {
	a, ok := m.Interface().(*anypb.Any)
	if !ok {
		a = &anypb.Any{TypeUrl: m.Get(m.Descriptor().Fields().ByNumber(1)).String(), Value: m.Get(m.Descriptor().Fields().ByNumber(2)).Bytes()}
	}
	inner, err := a.UnmarshalNew()
	if err != nil {
		inner, sensitive = unknownType(), false
	}
	w.inside(inner.ProtoReflect(), depth, sensitive)
}

// unknownType stands for what nobody knows how to show.
func unknownType() proto.Message {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"type_url": structpb.NewStringValue(secret + " of unknown type")}}
}

// inside writes a message as an Any that holds it.
func (w *jsonWriter) inside(m protoreflect.Message, depth int, sensitive bool) {
	url := typePrefix + string(m.Descriptor().FullName())
	if customOf(m.Descriptor()) == plainMessage {
		w.fields(m, url, depth, sensitive)
		return
	}
	w.out = append(w.out, '{')
	w.line(depth + 1)
	w.out = append(append(append(w.out, `"@type": "`...), url...), `",`...)
	w.line(depth + 1)
	w.out = append(w.out, `"value": `...)
	w.message(m, depth+1, sensitive)
	w.line(depth)
	w.out = append(w.out, '}')
}

func (w *jsonWriter) value(m protoreflect.Message, depth int, sensitive bool) {
	fd := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if fd == nil || fd.Kind() == protoreflect.DoubleKind && (math.IsNaN(m.Get(fd).Float()) || math.IsInf(m.Get(fd).Float(), 0)) {
		w.scalar(m, false) // the error is protojson's
		return
	}
	w.single(fd, m.Get(fd), depth, sensitive)
}

// maxDurations bounds how many durations are remembered as text.
const maxDurations = 256

func (w *jsonWriter) duration(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	key := [2]int64{m.Get(fields.ByNumber(1)).Int(), m.Get(fields.ByNumber(2)).Int()}
	s, ok := w.scale[key]
	if !ok {
		b, err := protojson.Marshal(m.Interface())
		w.fail(err)
		s = string(b)
		if w.scale == nil || len(w.scale) >= maxDurations {
			w.scale = map[[2]int64]string{}
		}
		w.scale[key] = s
	}
	w.out = append(w.out, s...)
}

func (w *jsonWriter) scalar(m protoreflect.Message, sensitive bool) {
	x := m.Interface()
	if sensitive {
		x = proto.Clone(x)
		redact(x.ProtoReflect(), true)
	}
	b, err := protojson.Marshal(x)
	w.fail(err)
	var one bytes.Buffer
	w.fail(json.Compact(&one, b))
	w.out = append(w.out, one.Bytes()...)
}
