package decode

import (
	"slices"

	"detour.dev/detour/internal/config"
)

// Partial is an object with an error, as far as it could be read: what else is wrong with it can be told at once. It is
// never served.
type Partial struct {
	Object *config.Object
	raw    map[string]any
	bad    [][]step // where what could not be read stands
}

func newPartial(o *config.Object, raw map[string]any, problems []problem) Partial {
	p := Partial{Object: o, raw: raw}
	for _, q := range problems {
		if steps := parsePath(q.path); len(steps) > 0 {
			p.bad = append(p.bad, steps)
		}
	}
	return p
}

// Trusts tells whether what is said of a field holds whatever the unreadable rest should have been: the field has a plain
// value in the file, and nothing beside it in its mapping, and no element of a list around it, was unreadable.
func (p Partial) Trusts(field string) bool {
	steps := parsePath(field)
	if len(steps) == 0 {
		return false
	}
	for _, b := range p.bad {
		last := len(b) - 1
		n := min(last, len(steps))
		if !slices.Equal(b[:n], steps[:n]) || last > len(steps) {
			continue
		}
		if last >= len(steps)-1 || !b[last].isKey || b[last] == steps[last] {
			return false
		}
	}
	var v any = p.raw
	for _, s := range steps {
		switch x := v.(type) {
		case map[string]any:
			v = x[s.key]
		case []any:
			if s.isKey || s.index >= len(x) {
				return false
			}
			v = x[s.index]
		default:
			return false
		}
	}
	switch v.(type) {
	case string, float64, bool:
		return true
	}
	return false
}
