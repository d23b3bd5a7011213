package decode

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	yamlv3 "gopkg.in/yaml.v3"

	"detour.dev/detour/internal/config"
)

// document is one YAML document. Its tree of nodes, which knows positions, is parsed on first need.
type document struct {
	file string

	mu   sync.Mutex // guards all below
	line int        // lines of the file before it
	data []byte     // a part of the file's contents that were read last
	tree *yamlv3.Node
	err  error // why there is no tree
}

// text gives the document's bytes, which nobody changes.
func (d *document) text() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.data
}

// holds tells whether the document's bytes are these; then it keeps these, which are part of newer contents, instead of
// its own.
func (d *document) holds(data []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !bytes.Equal(d.data, data) {
		return false
	}
	d.data = data
	return true
}

// move tells the document how many lines there are before it now, and gives how many that are more than before. What was
// read from it need not be read again.
func (d *document) move(line int) (by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	by = line - d.line
	d.line = line
	return by
}

// place gives a place in the file: line and column count from 1 in the document.
func (d *document) place(line, column int) config.Origin {
	d.mu.Lock()
	defer d.mu.Unlock()
	return config.Origin{File: d.file, Line: d.line + line, Column: column}
}

// detach makes the document, which its file holds no more, let go of the file's contents.
func (d *document) detach() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = bytes.Clone(d.data)
}

// root gives the document's top node.
func (d *document) root() (*yamlv3.Node, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tree == nil && d.err == nil {
		var n yamlv3.Node
		d.err = guard(func() error { return yamlv3.Unmarshal(d.data, &n) })
		if d.err == nil && len(n.Content) == 0 {
			d.err = errors.New("yaml: the document is empty")
		}
		if d.err == nil {
			d.tree = n.Content[0]
		}
	}
	return d.tree, d.err
}

// origin gives the first line of the document that says something.
func (d *document) origin() config.Origin {
	text := d.text()
	text = text[:min(len(text), 64<<10)]
	for i := 0; len(text) > 0 && i < 1000; i++ {
		var l []byte
		l, text, _ = bytes.Cut(text, []byte("\n"))
		t := bytes.TrimSpace(l)
		if len(t) == 0 || t[0] == '#' || string(t) == "---" || bytes.HasPrefix(t, []byte("--- #")) || l[0] == '%' {
			continue
		}
		return d.place(i+1, len(l)-len(bytes.TrimLeft(l, " \t"))+1)
	}
	return d.place(1, 1)
}

// Position implements config.Positions for paths from the document's top.
func (d *document) Position(path string) config.Origin {
	n, err := d.root()
	if err != nil {
		return d.origin()
	}
	at := n
	for _, s := range parsePath(path) {
		key, value := s.find(n)
		if value == nil {
			break
		}
		n, at = value, key
	}
	return d.place(at.Line, at.Column)
}

// occurrence gives the place of the nth key of that name in one mapping, counted from 1.
func (d *document) occurrence(path string, nth int) config.Origin {
	parent, last := "", path
	if steps := parsePath(path); len(steps) > 0 {
		last = steps[len(steps)-1].key
		for _, s := range steps[:len(steps)-1] {
			parent = s.appendTo(parent)
		}
	}
	n, err := d.root()
	if err != nil {
		return d.origin()
	}
	for _, s := range parsePath(parent) {
		if _, n = s.find(n); n == nil {
			return d.origin()
		}
	}
	n = follow(n)
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i]; k.Value == last {
			if nth--; nth == 0 {
				return d.place(k.Line, k.Column)
			}
		}
	}
	return d.origin()
}

// within is config.Positions for one item of a list: its paths begin at the item.
type within struct {
	d      *document
	prefix string
}

// Position implements config.Positions.
func (w within) Position(path string) config.Origin { return w.d.Position(join(w.prefix, path)) }

func join(prefix, path string) string {
	if prefix == "" || path == "" || path[0] == '[' {
		return prefix + path
	}
	return prefix + "." + path
}

// step is one part of a field path: a key, or an index where key is empty.
type step struct {
	key   string
	index int
	isKey bool
}

func (s step) appendTo(path string) string {
	if s.isKey {
		return keyPath(path, s.key)
	}
	return fmt.Sprintf("%s[%d]", path, s.index)
}

// keyPath adds a key to a path; keys that would confuse it stand in brackets and quotes.
func keyPath(path, key string) string {
	if key == "" || strings.ContainsAny(key, ".[]\"' /") {
		return path + "[" + strconv.Quote(key) + "]"
	}
	return join(path, key)
}

// parsePath reads `spec.endpoints[1].labels["a.b/c"]`. What it can't read it leaves out.
func parsePath(p string) []step {
	var out []step
	for p != "" {
		switch {
		case p[0] == '.':
			p = p[1:]
		case strings.HasPrefix(p, "[\""):
			q, err := strconv.QuotedPrefix(p[1:])
			if err != nil {
				return out
			}
			key, _ := strconv.Unquote(q)
			out = append(out, step{key: key, isKey: true})
			p = strings.TrimPrefix(p[1+len(q):], "]")
		case p[0] == '[':
			i := strings.IndexByte(p, ']')
			if i < 0 {
				return out
			}
			n, err := strconv.Atoi(p[1:i])
			if err != nil {
				return out
			}
			out = append(out, step{index: n})
			p = p[i+1:]
		default:
			i := strings.IndexAny(p, ".[")
			if i < 0 {
				i = len(p)
			}
			out = append(out, step{key: p[:i], isKey: true})
			p = p[i:]
		}
	}
	return out
}

// find gives the node that stands for the step (a mapping's key, a sequence's element) and the node to go on from.
func (s step) find(n *yamlv3.Node) (at, value *yamlv3.Node) {
	n = follow(n)
	switch {
	case !s.isKey && n.Kind == yamlv3.SequenceNode && s.index >= 0 && s.index < len(n.Content):
		return n.Content[s.index], n.Content[s.index]
	case s.isKey && n.Kind == yamlv3.MappingNode:
		return findKey(n, s.key, 8)
	}
	return nil, nil
}

// findKey looks a key up, also in what is merged in with `<<`, at most depth merges deep.
func findKey(n *yamlv3.Node, key string, depth int) (at, value *yamlv3.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], n.Content[i+1]
		}
	}
	for i := 0; i+1 < len(n.Content) && depth > 0; i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		sources := []*yamlv3.Node{follow(n.Content[i+1])}
		if sources[0].Kind == yamlv3.SequenceNode {
			sources = sources[0].Content
		}
		for _, src := range sources[:min(len(sources), 16)] {
			if src = follow(src); src.Kind == yamlv3.MappingNode {
				if at, value = findKey(src, key, depth-1); value != nil {
					return at, value
				}
			}
		}
	}
	return nil, nil
}

func follow(n *yamlv3.Node) *yamlv3.Node {
	for i := 0; i < 8 && n.Kind == yamlv3.AliasNode && n.Alias != nil; i++ {
		n = n.Alias
	}
	return n
}

// maxDepth is how deep duplicate keys are looked for; no field of the API lies deeper than 12.
const maxDepth = 100

// findDuplicates lists the keys that occur twice in one mapping. Aliases are not followed: their mapping is visited
// where it stands.
func findDuplicates(root *yamlv3.Node) []problem {
	var out []problem
	var walk func(n *yamlv3.Node, path string, depth int)
	walk = func(n *yamlv3.Node, path string, depth int) {
		if depth > maxDepth || len(out) >= maxProblems {
			return
		}
		switch n.Kind {
		case yamlv3.SequenceNode:
			for i, c := range n.Content {
				walk(c, fmt.Sprintf("%s[%d]", path, i), depth+1)
			}
		case yamlv3.MappingNode:
			seen := map[string]int{}
			for i := 0; i+1 < len(n.Content); i += 2 {
				k := n.Content[i]
				p := keyPath(path, k.Value)
				if k.Kind == yamlv3.ScalarNode {
					if seen[k.Value]++; seen[k.Value] > 1 && k.Tag != "!!merge" && len(out) < maxProblems {
						out = append(out, problem{code: config.CodeDuplicateKey, path: p, occurrence: seen[k.Value],
							message: fmt.Sprintf("%q stands here a second time; keep one", k.Value)})
					}
				}
				walk(n.Content[i+1], p, depth+1)
			}
		}
	}
	walk(root, "", 0)
	return out
}

// syntaxError says where and why a document is not YAML.
type syntaxError struct {
	at      config.Origin
	message string
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// syntax turns an error of the YAML library into one line with a place in the file. The library counts lines from 0 in
// its parser's errors, from 1 in its scanner's, and one too far where a colon is missing.
func (d *document) syntax(err error) *syntaxError {
	msg := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	msg = strings.TrimPrefix(msg, "yaml: ")
	n := 1
	if m := yamlLine.FindStringSubmatchIndex(msg); m != nil {
		n, _ = strconv.Atoi(msg[m[2]:m[3]])
		msg = msg[:m[0]] + msg[m[1]:]
	} else if name, ok := strings.CutPrefix(msg, "unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		before, _, _ := strings.Cut(string(d.text()), "*"+name)
		n = 1 + strings.Count(before, "\n")
	}
	switch {
	case strings.Contains(msg, "did not find expected"):
		n++
	case strings.Contains(msg, "could not find expected ':'"):
		n--
	}
	lines := strings.Split(strings.TrimRight(string(d.text()), "\r\n"), "\n")
	n = max(1, min(n, len(lines)))
	l := lines[n-1]
	at := d.place(n, len(l)-len(strings.TrimLeft(l, " \t"))+1)
	return &syntaxError{at, "not valid YAML: " + strings.Join(strings.Fields(msg), " ")}
}

// maxExpansion is how many bytes a document may have once its aliases are written out, beyond its own size: enough
// for any anchor that people write, far from what hurts.
const maxExpansion = 8 << 20

// checkExpansion refuses a document whose aliases multiply ("billion laughs"). Documents without an alias cost nothing.
func checkExpansion(d *document) error {
	s := d.text()
	if bytes.IndexByte(s, '*') < 0 || bytes.IndexByte(s, '&') < 0 {
		return nil
	}
	root, err := d.root()
	if err != nil {
		return nil // not YAML; said elsewhere
	}
	e := expansion{size: map[*yamlv3.Node]int{}, limit: len(s) + maxExpansion}
	if n := e.of(root); n > e.limit || e.cycle {
		return errors.New("the document's aliases expand too far")
	}
	return nil
}

type expansion struct {
	size  map[*yamlv3.Node]int // -1 while it is being measured
	limit int
	cycle bool
}

func (e *expansion) of(n *yamlv3.Node) int {
	if n.Kind == yamlv3.AliasNode {
		if n.Alias == nil {
			return 0
		}
		n = n.Alias
	}
	if s, ok := e.size[n]; ok {
		if s < 0 {
			e.cycle = true
			return e.limit + 1
		}
		return s
	}
	e.size[n] = -1
	total := len(n.Value) + 2
	for _, c := range n.Content {
		if total += e.of(c); total > e.limit {
			total = e.limit + 1
		}
	}
	e.size[n] = total
	return total
}
