package demo

import "strings"

// attribute is one key=value of a line of slog's text form, as it stands there.
type attribute struct{ key, text string }

// attributes takes such a line apart; nil if it is none.
func attributes(l string) (out []attribute) {
	for l != "" {
		key, rest, ok := strings.Cut(l, "=")
		if !ok || strings.ContainsAny(key, ` "`) {
			return nil
		}
		end := strings.IndexByte(rest, ' ')
		if strings.HasPrefix(rest, `"`) {
			end = closing(rest)
		}
		if end < 0 {
			end = len(rest)
		}
		out = append(out, attribute{key, key + "=" + rest[:end]})
		l = strings.TrimPrefix(rest[end:], " ")
	}
	return out
}

// closing gives the index behind the quoted string that s begins with; -1 if it does not end.
func closing(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// message is what two lines of one kind have in common.
func message(l string) string {
	for _, a := range attributes(l) {
		if a.key == "msg" {
			return a.text
		}
	}
	return l
}

// abridge takes the time off a line of the log and, from one whose kind is known by now, all but the reason.
func abridge(l string, known bool) string {
	var out []string
	for _, a := range attributes(l) {
		switch {
		case a.key == "time":
		case !known || a.key == "level" || a.key == "msg" || a.key == "reason":
			out = append(out, a.text)
		case len(out) == 0 || out[len(out)-1] != "…":
			out = append(out, "…")
		}
	}
	if out == nil {
		return l
	}
	return strings.Join(out, " ")
}
