package analyze

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"detour.dev/detour/internal/config/pipeline"
)

// FuzzRun analyses whatever is accepted, for all callers: it ends, never panics, and every finding has a code that
// stands in the index, a place and one line.
func FuzzRun(f *testing.F) {
	for _, p := range Pages() {
		f.Add([]byte(p.Bad))
		f.Add([]byte(p.Good))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		set, issues, err := pipeline.LoadOnce([]string{"-"}, bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, opt := range []Options{{Group: caller("us-east1")}, {Group: caller(""), AllLocalities: true}} {
			for _, i := range Run(context.Background(), set, issues, opt).Issues {
				if Title(i.Code) == "" || i.Origin.Line < 1 || i.Message == "" || strings.ContainsAny(i.Message, "\n") {
					t.Errorf("%q", i)
				}
			}
		}
	})
}
