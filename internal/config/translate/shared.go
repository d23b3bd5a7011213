package translate

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Thousands of resources say the same in most of their parts: limits that stand open, the default retry policy, a handful
// of localities. One message for all of them is a third of what a large snapshot would take without. Snapshots are
// immutable, so nobody can tell; who makes a resource shares a part of it only once nothing in it will change.

// maxShared bounds what a pool remembers; beyond it it begins anew. What was given out stays.
const maxShared = 4096

// pool remembers messages by what they say. The zero pool is ready.
type pool struct {
	known map[string]proto.Message // by type and deterministic encoding
	key   []byte
}

// share gives the message that says the same as m and was shared first.
func share[M proto.Message](c *compiler, m M) M {
	r := m.ProtoReflect()
	if c.memo == nil || !r.IsValid() {
		return m
	}
	p := &c.memo.pool
	p.key = append(append(p.key[:0], r.Descriptor().FullName()...), ' ')
	key, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(p.key, m)
	if err != nil { // only invalid UTF-8 can do this; decode refuses that earlier
		return m
	}
	p.key = key
	if known, ok := p.known[string(key)]; ok {
		return known.(M)
	}
	if p.known == nil || len(p.known) >= maxShared {
		p.known = map[string]proto.Message{}
	}
	p.known[string(key)] = m
	return m
}

// smallNumbers are shared by all: weights and percentages.
var smallNumbers = func() (out [256]*wrapperspb.UInt32Value) {
	for i := range out {
		out[i] = wrapperspb.UInt32(uint32(i))
	}
	return out
}()

// number wraps a number that nobody will change.
func number(n uint32) *wrapperspb.UInt32Value {
	if int(n) < len(smallNumbers) {
		return smallNumbers[n]
	}
	return wrapperspb.UInt32(n)
}
