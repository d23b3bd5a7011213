// Package decode turns the bytes of one file into typed objects of Istio's traffic API, strictly: what it does not
// know it refuses, with the place, the field's path, what is allowed and the nearest right word. It reads YAML (several
// documents), JSON and `kind: List`, gives every object its positions, and judges no meaning: that is validate's.
package decode

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"detour.dev/detour/internal/config"
)

// MaxFileSize bounds one file, in bytes; 20,000 ServiceEntries as kubectl prints them are about 30 MB.
const MaxFileSize = 64 << 20

// maxIssues bounds what is said of one file before the rest of it is left unread.
const maxIssues = 10_000

// Result is what one file holds.
type Result struct {
	Objects []*config.Object // in document order; the good ones only
	Issues  []config.Issue   // in the order of their places
	// Refused are the objects with an error, as far as they could be read: Key may be partly or wholly empty, Hosts
	// are those the object names.
	Refused []config.Refusal
	// Partial are those of Refused whose kind is known, with what of them could be read.
	Partial []Partial
	// Parsed is false where some of the file is not YAML at all, or holds an object that can't be told by kind,
	// namespace and name: then nobody can know which objects the file lacks, and all of them stay.
	Parsed bool
}

// File reads one file. Objects with an error are left out; every error is an issue of severity Error. Name is how the
// user calls the file; it becomes the origin of all that is read.
func File(name string, data []byte) ([]*config.Object, []config.Issue) {
	r := Read(name, data)
	return r.Objects, r.Issues
}

// Read reads one file, and also tells what became of the objects it could not use.
func Read(name string, data []byte) Result { return new(Decoder).Read(name, data) }

// Decoder reads one file again and again. Documents that are as they were are not read anew: their objects are the same
// pointers, or copies with another Origin (config.Object.SameAs) where they stand at other lines. It keeps the contents that it read last, and nothing of those before, but for documents
// whose objects live on elsewhere. The zero Decoder is ready; it is not safe for concurrent use.
type Decoder struct {
	docs []doc // by line
	// lost are documents that were missing when the file seemed to be half-written, and torn is how often in a row it did: a
	// large file is seen while it is being written, and most of it must not be read anew when it is there again.
	lost []doc
	torn int
}

// maxTorn is after how many contents in a row that seem half-written what is lost is forgotten.
const maxTorn = 16

// doc is what one document gave. There may be very many of them.
type doc struct {
	d   *document
	one *config.Object // all that it gave; nil where it gave anything else
	out *Result        // nil where one is all
}

// Read is as the function Read. The name must be the same every time.
func (d *Decoder) Read(name string, data []byte) Result {
	r := &reader{name: name, out: Result{Parsed: true}}
	if len(data) > MaxFileSize {
		r.fileIssue(config.CodeTooLarge, config.Origin{File: name}, fmt.Sprintf("the file has %d bytes, at most %d are allowed", len(data), MaxFileSize))
		return r.out
	}
	data, err := plainLines(data)
	if err != nil {
		r.fileIssue(config.CodeSyntax, config.Origin{File: name, Line: 1, Column: 1}, err.Error())
		return r.out
	}
	chunks := split(data)
	docs := make([]doc, 0, len(chunks))
	old := known{docs: append(d.docs, d.lost...)}
	for _, c := range chunks {
		if r.full(config.Origin{File: name, Line: c.line + 1, Column: 1}) {
			break
		}
		one, ok := old.take(c)
		if !ok {
			one = readDoc(name, c)
		}
		docs = append(docs, one)
		if one.out != nil {
			r.add(*one.out)
		} else {
			r.out.Objects = append(r.out.Objects, one.one)
		}
	}
	old.detach()
	d.docs, d.lost = docs, nil
	if d.torn++; r.out.Parsed && bytes.HasSuffix(data, []byte("\n")) {
		d.torn = 0
	}
	if d.torn > 0 && d.torn <= maxTorn {
		d.lost = slices.DeleteFunc(old.docs, func(x doc) bool { return x.d == nil })
	}
	slices.SortStableFunc(r.out.Issues, func(a, b config.Issue) int {
		if a.Origin.Line != b.Origin.Line {
			return a.Origin.Line - b.Origin.Line
		}
		return a.Origin.Column - b.Origin.Column
	})
	return r.out
}

// known are the documents of a file's earlier contents, while those that are still there are looked for.
type known struct {
	docs  []doc            // those that were taken are zero
	next  int              // the one that would come now if nothing had changed
	byKey map[uint64][]int // all that were left when first another one came, by hash
}

var hashSeed = maphash.MakeSeed()

// take gives the document with a chunk's contents, moved to its line; ok is false where there is none.
func (k *known) take(c chunk) (one doc, ok bool) {
	if k.next < len(k.docs) && k.docs[k.next].d != nil && k.docs[k.next].d.holds(c.data) {
		return k.taken(k.next, c.line), true
	}
	if k.byKey == nil {
		k.byKey = map[uint64][]int{}
		for i := k.next; i < len(k.docs); i++ {
			h := maphash.Bytes(hashSeed, k.docs[i].d.text())
			k.byKey[h] = append(k.byKey[h], i)
		}
	}
	h := maphash.Bytes(hashSeed, c.data)
	for len(k.byKey[h]) > 0 {
		i := k.byKey[h][0]
		k.byKey[h] = k.byKey[h][1:]
		if k.docs[i].d != nil && k.docs[i].d.holds(c.data) {
			return k.taken(i, c.line), true
		}
	}
	return doc{}, false
}

func (k *known) taken(i, line int) doc {
	one := k.docs[i]
	k.docs[i], k.next = doc{}, i+1
	by := one.d.move(line)
	switch {
	case by == 0:
	case one.out == nil:
		one.one = one.one.Moved(by)
	default:
		one.out = one.out.moved(by)
	}
	return one
}

// detach has the documents that were not taken let go of the earlier contents.
func (k *known) detach() {
	for i := range k.docs {
		if d := k.docs[i].d; d != nil {
			d.detach()
		}
	}
}

// moved gives the result of a document that stands as many lines further down.
func (r *Result) moved(by int) *Result {
	out := &Result{Parsed: r.Parsed}
	for _, o := range r.Objects {
		out.Objects = append(out.Objects, o.Moved(by))
	}
	for _, i := range r.Issues {
		out.Issues = append(out.Issues, i.Moved(by))
	}
	for _, x := range r.Refused {
		x.Issue = x.Issue.Moved(by)
		out.Refused = append(out.Refused, x)
	}
	for _, p := range r.Partial {
		p.Object = p.Object.Moved(by)
		out.Partial = append(out.Partial, p)
	}
	return out
}

// readDoc reads one document by itself.
func readDoc(name string, c chunk) doc {
	r := &reader{name: name, out: Result{Parsed: true}}
	d := &document{file: name, data: c.data, line: c.line}
	r.document(d)
	if o := &r.out; len(o.Objects) == 1 && len(o.Issues)+len(o.Refused)+len(o.Partial) == 0 && o.Parsed {
		return doc{d: d, one: o.Objects[0]}
	}
	return doc{d: d, out: &r.out}
}

type reader struct {
	name string
	out  Result
}

func (r *reader) add(o Result) {
	r.out.Objects = append(r.out.Objects, o.Objects...)
	r.out.Issues = append(r.out.Issues, o.Issues...)
	r.out.Refused = append(r.out.Refused, o.Refused...)
	r.out.Partial = append(r.out.Partial, o.Partial...)
	r.out.Parsed = r.out.Parsed && o.Parsed
}

// fileIssue records an error that makes the file's contents unknowable.
func (r *reader) fileIssue(code string, at config.Origin, message string) {
	r.out.Parsed = false
	r.out.Issues = append(r.out.Issues, config.Issue{Severity: config.Error, Code: code, Origin: at, Message: message})
}

// full tells whether enough is wrong with the file, and says so.
func (r *reader) full(at config.Origin) bool {
	if len(r.out.Issues) < maxIssues {
		return false
	}
	r.fileIssue(config.CodeTooLarge, at, "too much is wrong with this file; the rest was not read")
	return true
}

func (r *reader) document(d *document) {
	if err := checkExpansion(d); err != nil {
		r.fileIssue(config.CodeTooLarge, d.origin(), err.Error())
		return
	}
	v, duplicates, err := d.value()
	if err != nil {
		r.fileIssue(config.CodeSyntax, err.at, err.message)
		return
	}
	if v == nil {
		return
	}
	top, ok := v.(map[string]any)
	if !ok {
		r.fileIssue(config.CodeNotAnObject, d.origin(), fmt.Sprintf("wants an object with apiVersion, kind and metadata, got %s", describe(v)))
		return
	}
	if isList(top) {
		r.list(d, top, duplicates)
		return
	}
	r.object(d, "", top, duplicates)
}

func isList(top map[string]any) bool {
	kind, _ := top["kind"].(string)
	api, _ := top["apiVersion"].(string)
	return kind == "List" || strings.HasSuffix(kind, "List") && strings.HasPrefix(api, networkingGroup+"/")
}

func (r *reader) list(d *document, top map[string]any, duplicates []problem) {
	items, ok := top["items"].([]any)
	if !ok && top["items"] != nil {
		r.fileIssue(config.CodeNotAnObject, d.Position("items"), "items: wants a list of objects, got "+describe(top["items"]))
		return
	}
	for i, item := range items {
		prefix := fmt.Sprintf("items[%d]", i)
		if len(r.out.Issues) >= maxIssues && r.full(d.Position(prefix)) {
			return
		}
		m, ok := item.(map[string]any)
		if !ok {
			r.fileIssue(config.CodeNotAnObject, d.Position(prefix), prefix+": wants an object with apiVersion, kind and metadata, got "+describe(item))
			continue
		}
		if isList(m) {
			r.fileIssue(config.CodeNotAnObject, d.Position(prefix), prefix+": a list inside a list is not read; put its items here")
			continue
		}
		var own []problem
		for _, p := range duplicates {
			if rest, ok := strings.CutPrefix(p.path, prefix+"."); ok {
				p.path = rest
				own = append(own, p)
			}
		}
		r.object(d, prefix, m, own)
	}
}

// problem is an error in the making: its place is looked up only once all are known.
type problem struct {
	severity   config.Severity
	code       string
	path       string
	message    string
	occurrence int // of a duplicate key: which of them is meant
}

// value gives the document as Kubernetes reads it (YAML 1.1 through JSON), and the keys that occur twice.
func (d *document) value() (v any, duplicates []problem, bad *syntaxError) {
	err := guard(func() error { return yaml.UnmarshalStrict(d.text(), &v) })
	if err == nil {
		return v, nil, nil
	}
	root, perr := d.root()
	if perr != nil {
		return nil, nil, d.syntax(err)
	}
	duplicates = findDuplicates(root)
	v = nil
	if lax := guard(func() error { return yaml.Unmarshal(d.text(), &v) }); lax != nil || len(duplicates) == 0 {
		return nil, nil, d.syntax(err)
	}
	return v, duplicates, nil
}

// guard keeps a defect of the YAML library from ending the process: files come from anywhere.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: can't be read: %v", p)
		}
	}()
	return f()
}

// chunk is one document of a file.
type chunk struct {
	data []byte
	line int // lines of the file before it
}

// split cuts a file at its document markers. A marker stands at the beginning of a line and nowhere inside a scalar
// (YAML 1.2.2, §9.1.2), so that lines suffice.
func split(data []byte) []chunk {
	var out []chunk
	start, startLine, line := 0, 0, 0
	content := false // something but comments, directives and blank lines since start
	for pos := 0; pos < len(data); line++ {
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		l := data[pos:end]
		switch {
		case isMarker(l, "---"):
			if content {
				out = append(out, chunk{data[start:pos], startLine})
			}
			start, startLine = pos, line // an empty document before this one is nobody's
			content = len(bytes.TrimSpace(stripComment(l[3:]))) > 0
		case isMarker(l, "..."):
			if content {
				out = append(out, chunk{data[start:pos], startLine})
			}
			start, startLine, content = end, line+1, false
		default:
			if t := bytes.TrimSpace(l); len(t) > 0 && t[0] != '#' && (l[0] != '%' || content) {
				content = true
			}
		}
		pos = end
	}
	if content {
		out = append(out, chunk{data[start:], startLine})
	}
	return out
}

// plainLines makes "\n" and "\r\n" the only line breaks, so that split sees each document marker that the YAML
// library would see. It refuses the encodings and exotic breaks that nobody writes, instead of losing a document there.
func plainLines(data []byte) ([]byte, error) {
	for _, bom := range []string{"\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(data, []byte(bom)) {
			return nil, errors.New("the file is UTF-16; write it as UTF-8")
		}
	}
	for _, br := range []string{"\u0085", "\u2028", "\u2029"} {
		for _, marker := range []string{"---", "..."} {
			if bytes.Contains(data, []byte(br+marker)) {
				return nil, fmt.Errorf("%+q before %q is no line break here; write a newline", br, marker)
			}
		}
	}
	if bytes.Count(data, []byte("\r")) == bytes.Count(data, []byte("\r\n")) {
		return data, nil
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(data, []byte("\r"), []byte("\n")), nil
}

func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

func stripComment(l []byte) []byte {
	if t := bytes.TrimSpace(l); len(t) > 0 && t[0] == '#' {
		return nil
	}
	return l
}
