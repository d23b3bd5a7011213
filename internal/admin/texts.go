package admin

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// text is how a resource reads as JSON, kept short: most of its lines are those of any other resource of its kind, and
// stand in phrases once. The zero text is empty.
type text struct {
	in    *phrases
	parts string // pairs: the length of what follows and the bytes; length and place of what stands in the phrases
	size  int    // in bytes, written out
}

// phrases are a few texts whose lines many others share. They never change once texts were made of them.
type phrases struct {
	data  []byte
	lines map[string]int // where a line stands in data first
}

// maxPhrases bounds the phrases, in bytes.
const maxPhrases = 64 << 10

func newPhrases(samples [][]byte) *phrases {
	p := &phrases{lines: map[string]int{}}
	for _, s := range samples {
		p.data = append(p.data, s[:min(len(s), maxPhrases-len(p.data))]...)
	}
	for at := 0; at < len(p.data); {
		n := lineLength(p.data[at:])
		if _, known := p.lines[string(p.data[at:at+n])]; !known {
			p.lines[string(p.data[at:at+n])] = at
		}
		at += n
	}
	return p
}

// lineLength is the length of the first line, with its end.
func lineLength(s []byte) int {
	if i := bytes.IndexByte(s, '\n'); i >= 0 {
		return i + 1
	}
	return len(s)
}

// shorten makes a text; scratch is used and given back.
func (p *phrases) shorten(s, scratch []byte) (text, []byte) {
	out := text{in: p, size: len(s)}
	scratch = scratch[:0]
	next := 0
	for rest := s; len(rest) > 0; {
		own, at, n := p.split(rest, next)
		next = at + n
		scratch = append(binary.AppendUvarint(scratch, uint64(own)), rest[:own]...)
		scratch = binary.AppendUvarint(binary.AppendUvarint(scratch, uint64(n)), uint64(at))
		rest = rest[own+n:]
	}
	out.parts = string(scratch)
	return out, scratch
}

// split gives how many bytes at the beginning stand in no phrase, and place and length of what comes then. next is where it
// is likely to stand: most texts differ from a phrase in a line here and there.
func (p *phrases) split(s []byte, next int) (own, at, n int) {
	for own < len(s) {
		line := s[own : own+lineLength(s[own:])]
		known := bytes.HasPrefix(p.data[next:], line)
		if at = next; !known {
			at, known = p.lines[string(line)]
		}
		if !known {
			own += len(line)
			next += lineLength(p.data[next:])
			continue
		}
		for n = len(line); own+n < len(s); { // as far as the lines after it are the same
			line := s[own+n : own+n+lineLength(s[own+n:])]
			if !bytes.HasPrefix(p.data[at+n:], line) {
				break
			}
			n += len(line)
		}
		return own, at, n
	}
	return own, next, 0
}

// appendTo writes the text out.
func (t text) appendTo(b []byte) []byte {
	for parts := t.parts; parts != ""; {
		var own, n, at int
		own, parts = uvarint(parts)
		b, parts = append(b, parts[:own]...), parts[own:]
		n, parts = uvarint(parts)
		at, parts = uvarint(parts)
		b = append(b, t.in.data[at:at+n]...)
	}
	return b
}

func uvarint(s string) (int, string) {
	var x uint64
	for i := range len(s) {
		x |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return int(x), s[i+1:]
		}
	}
	return 0, ""
}

// remembered are the texts of one kind of resources, by what tells their versions apart: the messages' pointers, which are
// immutable and of which few change between two dumps. What the last dump did not show is forgotten.
type remembered struct {
	known map[any]remembering
	round uint64
	in    *phrases
	out   []text // of the last call
}

type remembering struct {
	text  text
	round uint64 // the last one that showed it
}

// render writes number i, by a writer of its own for each of several goroutines.
type render func(w *jsonWriter, i int) ([]byte, error)

// someSamples is how many texts the phrases are taken from.
const someSamples = 3

// of gives the texts for keys, of which nil is never remembered. They are valid until the next call.
func (r *remembered) of(keys []any, write render) ([]text, error) {
	r.round++
	r.out = slices.Grow(r.out[:0], len(keys))[:len(keys)]
	out := r.out
	var missing []int
	for i, k := range keys {
		if x, ok := r.known[k]; ok && k != nil {
			out[i] = x.text
			r.known[k] = remembering{x.text, r.round}
		} else {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 {
		if err := r.fill(out, missing, write); err != nil {
			return nil, err
		}
	}
	if r.known == nil {
		r.known = make(map[any]remembering, len(keys))
	}
	for _, i := range missing {
		if keys[i] != nil {
			r.known[keys[i]] = remembering{out[i], r.round}
		}
	}
	if len(r.known) > len(keys) {
		for k, x := range r.known {
			if x.round != r.round {
				delete(r.known, k)
			}
		}
	}
	return out, nil
}

// fill writes what is missing, on all processors where it is much.
func (r *remembered) fill(out []text, missing []int, write render) error {
	if r.in == nil || len(missing) > len(out)/2 { // what is known of most of them
		var w jsonWriter
		var samples [][]byte
		for i := range min(someSamples, len(missing)) {
			b, err := write(&w, missing[i*len(missing)/someSamples])
			if err != nil {
				return err
			}
			samples = append(samples, append([]byte(nil), b...))
		}
		r.in = newPhrases(samples)
	}
	var next atomic.Int64
	var failed atomic.Pointer[error]
	work := func() {
		var w jsonWriter
		var scratch []byte
		for n := int(next.Add(1)) - 1; n < len(missing) && failed.Load() == nil; n = int(next.Add(1)) - 1 {
			b, err := write(&w, missing[n])
			if err != nil {
				failed.Store(&err)
				return
			}
			out[missing[n]], scratch = r.in.shorten(b, scratch)
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0)-1, len(missing)/64) {
		others.Go(work)
	}
	work()
	others.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}
