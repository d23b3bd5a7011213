package decode

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"detour.dev/detour/internal/config"
)

// fill sets a message's fields from a mapping, by the rules of Istio's own JSON reader: names in lowerCamelCase (or as
// in the proto), enums by name or number, integers also as strings, durations as Go writes them ("1m30s"). Every
// problem is recorded at its path; fields with one stay unset.
func fill(o *object, path string, m map[string]any, msg protoreflect.Message) {
	fields := msg.Descriptor().Fields()
	oneofs := map[protoreflect.FullName]string{}
	for _, k := range sortedKeys(m) {
		p := keyPath(path, k)
		fd := fields.ByJSONName(k)
		if fd == nil {
			fd = fields.ByTextName(k)
		}
		if fd == nil {
			o.unknownField(p, k, fields)
			continue
		}
		if m[k] == nil {
			continue
		}
		if oo := fd.ContainingOneof(); oo != nil && !oo.IsSynthetic() {
			if other, taken := oneofs[oo.FullName()]; taken {
				o.problem(config.CodeOneofTwice, p, "excludes %s; give one of them", other)
				continue
			}
			oneofs[oo.FullName()] = k
		}
		switch {
		case fd.IsMap():
			o.fillMap(p, m[k], msg, fd)
		case fd.IsList():
			o.fillList(p, m[k], msg, fd)
		default:
			if v, ok := o.single(p, m[k], fd, msg.NewField); ok {
				msg.Set(fd, v)
			}
		}
	}
}

func (o *object) unknownField(path, name string, fields protoreflect.FieldDescriptors) {
	words := make([]string, fields.Len())
	for i := range words {
		words[i] = fields.Get(i).JSONName()
	}
	o.problem(config.CodeUnknownField, path, "unknown field%s; allowed: %s", config.DidYouMean(name, words), strings.Join(words, ", "))
}

func (o *object) fillMap(path string, v any, msg protoreflect.Message, fd protoreflect.FieldDescriptor) {
	m, ok := v.(map[string]any)
	if !ok {
		o.problem(config.CodeWrongType, path, "wants a mapping, got %s", describe(v))
		return
	}
	target := msg.Mutable(fd).Map()
	for _, k := range sortedKeys(m) {
		p := keyPath(path, k)
		newValue := func(protoreflect.FieldDescriptor) protoreflect.Value { return target.NewValue() }
		if m[k] == nil { // istiod takes it for the type's zero value
			o.warn(config.CodeWrongType, p, "has no value, which counts as an empty one; write it, or remove the key")
			target.Set(protoreflect.ValueOfString(k).MapKey(), target.NewValue())
			continue
		}
		if val, ok := o.single(p, m[k], fd.MapValue(), newValue); ok {
			target.Set(protoreflect.ValueOfString(k).MapKey(), val)
		}
	}
}

func (o *object) fillList(path string, v any, msg protoreflect.Message, fd protoreflect.FieldDescriptor) {
	list, ok := v.([]any)
	if !ok {
		o.problem(config.CodeWrongType, path, "wants a list, got %s", describe(v))
		return
	}
	target := msg.Mutable(fd).List()
	for i, e := range list {
		p := fmt.Sprintf("%s[%d]", path, i)
		if e == nil && fd.Message() == nil {
			o.warn(config.CodeWrongType, p, "is empty; write a value, or remove the element")
			target.Append(target.NewElement())
			continue
		}
		if e == nil {
			o.problem(config.CodeWrongType, p, "is empty")
			continue
		}
		newValue := func(protoreflect.FieldDescriptor) protoreflect.Value { return target.NewElement() }
		if val, ok := o.single(p, e, fd, newValue); ok {
			target.Append(val)
		}
	}
}

// single reads one value that is neither a list nor a map.
func (o *object) single(path string, v any, fd protoreflect.FieldDescriptor, newValue func(protoreflect.FieldDescriptor) protoreflect.Value) (protoreflect.Value, bool) {
	none := protoreflect.Value{}
	switch fd.Kind() {
	case protoreflect.MessageKind:
		val := newValue(fd)
		return val, o.message(path, v, val.Message())
	case protoreflect.StringKind:
		s, ok := v.(string)
		if !ok {
			o.problem(config.CodeWrongType, path, "wants a string, got %s%s", describe(v), quoteHint(v))
		}
		return protoreflect.ValueOfString(s), ok
	case protoreflect.BoolKind:
		b, ok := v.(bool)
		if !ok {
			o.problem(config.CodeWrongType, path, "wants true or false, got %s", describe(v))
		}
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.EnumKind:
		return o.enum(path, v, fd)
	case protoreflect.Int32Kind:
		n, ok := o.integer(path, v, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfInt32(int32(n)), ok
	case protoreflect.Uint32Kind:
		n, ok := o.integer(path, v, 0, math.MaxUint32)
		return protoreflect.ValueOfUint32(uint32(n)), ok
	case protoreflect.Uint64Kind:
		n, ok := o.integer(path, v, 0, 1<<53)
		return protoreflect.ValueOfUint64(uint64(n)), ok
	case protoreflect.DoubleKind:
		f, ok := v.(float64)
		if s, isString := v.(string); isString {
			n, err := strconv.ParseFloat(s, 64)
			f, ok = n, err == nil && !math.IsNaN(n) && !math.IsInf(n, 0)
		}
		if !ok {
			o.problem(config.CodeWrongType, path, "wants a number, got %s", describe(v))
		}
		return protoreflect.ValueOfFloat64(f), ok
	case protoreflect.BytesKind:
		s, ok := v.(string)
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil || !ok {
			o.problem(config.CodeWrongType, path, "wants base64, got %s", describe(v))
			return none, false
		}
		return protoreflect.ValueOfBytes(b), true
	}
	o.problem(config.CodeUnsupported, path, "is not supported yet")
	return none, false
}

// message reads a mapping, or one of protobuf's own types that JSON writes as a scalar.
func (o *object) message(path string, v any, msg protoreflect.Message) bool {
	md := msg.Descriptor()
	switch md.FullName() {
	case "google.protobuf.Duration":
		return o.duration(path, v, msg)
	case "google.protobuf.BoolValue", "google.protobuf.UInt32Value", "google.protobuf.UInt64Value", "google.protobuf.DoubleValue":
		fd := md.Fields().ByName("value")
		val, ok := o.single(path, v, fd, msg.NewField)
		if ok {
			msg.Set(fd, val)
		}
		return ok
	}
	m, ok := v.(map[string]any)
	if !ok {
		o.problem(config.CodeWrongType, path, "wants a mapping, got %s", describe(v))
		return false
	}
	fill(o, path, m, msg)
	return true
}

func (o *object) duration(path string, v any, msg protoreflect.Message) bool {
	s, ok := v.(string)
	if !ok {
		o.problem(config.CodeBadDuration, path, "wants a duration with its unit, as in \"15s\", \"1m30s\" or \"200ms\", got %s", describe(v))
		return false
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		o.problem(config.CodeBadDuration, path, "%s is not a duration; write it with its unit, as in \"15s\", \"1m30s\" or \"200ms\"", quote(s))
		return false
	}
	proto.Merge(msg.Interface(), durationpb.New(d))
	return true
}

func (o *object) enum(path string, v any, fd protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	values := fd.Enum().Values()
	switch x := v.(type) {
	case string:
		if ev := values.ByName(protoreflect.Name(x)); ev != nil {
			return protoreflect.ValueOfEnum(ev.Number()), true
		}
		words := make([]string, values.Len())
		for i := range words {
			words[i] = string(values.Get(i).Name())
		}
		o.problem(config.CodeBadEnum, path, "unknown value %s; allowed: %s%s", quote(x), oneOf(words), config.DidYouMean(x, words))
	case float64:
		if ev := values.ByNumber(protoreflect.EnumNumber(int32(x))); ev != nil && float64(int32(x)) == x {
			return protoreflect.ValueOfEnum(ev.Number()), true
		}
		o.problem(config.CodeBadEnum, path, "unknown value %v", x)
	default:
		o.problem(config.CodeWrongType, path, "wants a word, got %s", describe(v))
	}
	return protoreflect.Value{}, false
}

func (o *object) integer(path string, v any, low, high float64) (int64, bool) {
	f, ok := v.(float64)
	if s, isString := v.(string); isString {
		n, err := strconv.ParseInt(s, 10, 64)
		f, ok = float64(n), err == nil
	}
	if !ok || f != math.Trunc(f) {
		o.problem(config.CodeWrongType, path, "wants a whole number, got %s", describe(v))
		return 0, false
	}
	if f < low || f > high {
		o.problem(config.CodeWrongType, path, "%.0f is out of range; allowed: %.0f to %.0f", f, low, high)
		return 0, false
	}
	return int64(f), true
}

// describe names a value for a message: its type, and what it is where that is short.
func describe(v any) string {
	switch x := v.(type) {
	case nil:
		return "nothing"
	case string:
		return "the string " + quote(x)
	case bool:
		return fmt.Sprintf("the boolean %t", x)
	case float64:
		return "the number " + strconv.FormatFloat(x, 'f', -1, 64)
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	}
	return fmt.Sprintf("%T", v)
}

func quoteHint(v any) string {
	switch v.(type) {
	case bool, float64:
		return " (write it in quotes)"
	}
	return ""
}

// quote quotes a value for a message, and shortens what is long.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
