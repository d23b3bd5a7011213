package decode

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/config"
)

// someDocument is good, bad, a list, or no object at all.
func someDocument(r *rand.Rand) string {
	entry := func(indent string) string {
		return strings.ReplaceAll(fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e%d}
spec:
  hosts: [h%d.example.com]
`, r.IntN(9), r.IntN(9)), "\n", "\n"+indent)
	}
	switch r.IntN(7) {
	case 0:
		return "kind: ServiceEntry\napiVersion: networking.istio.io/v1\nmetadata: {name: bad}\nspec:\n  host: [x]\n"
	case 1:
		return "apiVersion: v1\nkind: List\nitems:\n- " + strings.TrimRight(entry("  "), " ") + "- " + strings.TrimRight(entry("  "), " ")
	case 2:
		return "a: b: c\n"
	case 3:
		return "# nothing\n"
	}
	return strings.Repeat("# a comment\n", r.IntN(3)) + entry("")
}

// describeResult tells all that is seen of a result.
func describeResult(r Result) string {
	var b strings.Builder
	for _, o := range r.Objects {
		fmt.Fprintf(&b, "%s at %s, hosts at %s: %v\n", o.Key, o.Origin, o.At("spec.hosts[0]"), o.Spec)
	}
	for _, i := range r.Issues {
		fmt.Fprintln(&b, i)
	}
	for _, x := range r.Refused {
		fmt.Fprintln(&b, x)
	}
	for _, p := range r.Partial {
		fmt.Fprintln(&b, p.Object.Key, p.Object.Origin, p.Object.At("spec.host"), p.bad)
	}
	return fmt.Sprint(b.String(), r.Parsed)
}

// TestDecoderMoves: whatever documents come, go, move and change, a Decoder gives what reading anew gives, and reads
// nothing twice.
func TestDecoderMoves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var docs []string
	var d Decoder
	for step := range 120 {
		i := r.IntN(len(docs) + 1)
		switch {
		case i == len(docs) || r.IntN(3) == 0 && len(docs) < 30:
			docs = slices.Insert(docs, i, someDocument(r))
		case r.IntN(3) == 0:
			docs = slices.Delete(docs, i, i+1)
		case r.IntN(3) == 0:
			docs[0], docs[i] = docs[i], docs[0]
		default:
			docs[i] = "# one more\n" + docs[i]
		}
		data := []byte(strings.Join(docs, "---\n"))
		before := specs(d.docs)
		was := len(before)
		got, want := d.Read("f.yaml", data), Read("f.yaml", data)
		if describeResult(got) != describeResult(want) {
			t.Fatalf("step %d:\n%s\n\ngives\n%s\n\nwant\n%s", step, data, describeResult(got), describeResult(want))
		}
		read := 0
		for s := range specs(d.docs) {
			if !before[s] {
				read++
			}
		}
		if was > 0 && read > 4 { // of one document, and of another that lost its marker
			t.Fatalf("step %d: %d objects were read anew", step, read)
		}
	}
}

func specs(docs []doc) map[proto.Message]bool {
	out := map[proto.Message]bool{}
	for _, d := range docs {
		objects := []*config.Object{d.one}
		if d.out != nil {
			objects = d.out.Objects
		}
		for _, o := range objects {
			if o != nil {
				out[o.Spec] = true
			}
		}
	}
	return out
}

// TestDecoderSeesFilesBeingWritten: what is missing from half of a file is the same again when the rest has come.
func TestDecoderSeesFilesBeingWritten(t *testing.T) {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x%d}\nspec: {hosts: [a%d.com]}\n", i, i)
	}
	whole := b.String()
	var d Decoder
	first := d.Read("f", []byte(whole))
	for _, torn := range []string{"", whole[:len(whole)/2], whole[:len(whole)/2+9], whole[:len(whole)*3/4+50]} {
		d.Read("f", []byte(torn))
	}
	again := d.Read("f", []byte(whole))
	if !slices.Equal(again.Objects, first.Objects) || len(d.lost) != 0 {
		t.Errorf("%d objects, %d documents are still lost", len(again.Objects), len(d.lost))
	}
	for range 2 * maxTorn {
		d.Read("f", []byte("a: ["))
	}
	if len(d.lost) != 0 {
		t.Errorf("%d documents of a file that is broken for good are remembered", len(d.lost))
	}
}
