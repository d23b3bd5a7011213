package demo

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{"", "", ""},
		{"a\nb\n", "a\nb\n", ""},
		{"", "a\nb\n", "+a +b"},
		{"a\nb\n", "", "-a -b"},
		{"1\n2\n3\n4\n5\n", "1\n2\n3\nX\n5\n", " 2  3 -4 +X  5"},
		{"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n3\n4\n5\n6\n7\n8\n9\n10\n", " 1 -2  3  8  9 +10"},
	} {
		var got []string
		for _, l := range near(diff(c.before, c.after), 2) {
			got = append(got, string(l.mark)+l.text)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q to %q: %q, want %q", c.before, c.after, s, c.want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"", []string{""}},
		{"one two three", []string{"one two", "three"}},
		{"unbreakable-word", []string{"unbreakable-word"}},
		{"unbreakable-word and more", []string{"unbreakable-word", "and more"}},
		{"ä ä ä ä ä", []string{"ä ä ä ä", "ä"}},
		{"a\nb", []string{"a", "b"}},
	} {
		if got := wrap(c.in, 8); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestAbridge(t *testing.T) {
	const l = `time=2026-01-01T00:00:00Z level=WARN msg="endpoint \"x\" ejected" cluster=c|80||h name=n reason="a b=c" for=1m0s`
	for _, c := range []struct {
		in    string
		known bool
		want  string
	}{
		{l, false, `level=WARN msg="endpoint \"x\" ejected" cluster=c|80||h name=n reason="a b=c" for=1m0s`},
		{l, true, `level=WARN msg="endpoint \"x\" ejected" … reason="a b=c" …`},
		{"detour: run: something", true, "detour: run: something"},
		{`a="never closed`, true, `…`},
		{"", false, ""},
	} {
		if got := abridge(c.in, c.known); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
	if got := message(l); got != `msg="endpoint \"x\" ejected"` {
		t.Errorf("message %q", got)
	}
}

func TestParseAnswer(t *testing.T) {
	for _, c := range []struct {
		out    string
		status int
		want   answer
	}{
		{"healthy: x\n\n200 0.002", 0, answer{"healthy: x", 200, 2 * time.Millisecond, 0}},
		{"no newline\n503 0.5", 0, answer{"no newline", 503, 500 * time.Millisecond, 0}},
		{"curl: (60) bad name\nMore details here: https://curl.se\n\nadvice\n\n000 0.1", 60, answer{"curl: (60) bad name", 0, 100 * time.Millisecond, 60}},
		{"sh: curl: not found", 127, answer{"sh: curl: not found", 0, 0, 127}},
	} {
		if got := parseAnswer(strings.Split(c.out, "\n"), c.status); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.out, got, c.want)
		}
	}
}

// The table must have exactly the endpoints that are wanted, each with its outlier check.
func TestMatches(t *testing.T) {
	rows := []string{
		"ENDPOINT            STATUS      OUTLIER CHECK     CLUSTER",
		"198.51.100.1:80     HEALTHY     OK                outbound|80||mydb.com",
		"203.0.113.1:80      HEALTHY     FAILED            outbound|80||mydb.com",
		"192.0.2.1:80        HEALTHY     OK                outbound|80||other.com",
	}
	if !matches(rows, []check{east(80, "OK"), west(80, "FAILED")}) {
		t.Error("the right table does not match")
	}
	for _, wrong := range [][]check{
		{east(80, "OK"), west(80, "OK")}, {east(81, "OK"), west(80, "FAILED")}, {east(80, "OK")}, nil,
	} {
		if matches(rows, wrong) {
			t.Errorf("%v matches", wrong)
		}
	}
	if matches([]string{strings.Replace(rows[1], "HEALTHY", "UNHEALTHY", 1)}, []check{east(80, "OK")}) {
		t.Error("an endpoint that is not HEALTHY matches")
	}
}

// What is expected and not seen is said once, stops the rest, and becomes the error.
func TestExpect(t *testing.T) {
	var out bytes.Buffer
	st := &stage{printer: &printer{w: &out}, id: "2"}
	good := answer{body: from(eastName), code: 200}
	for _, bad := range []answer{
		{body: from(westName), code: 200}, {body: from(eastName), code: 503}, {body: from(eastName), code: 200, exit: 18}, {},
	} {
		st.err = nil
		st.all([]answer{good, bad, bad}, eastName)
		if st.err == nil || !strings.HasPrefix(st.err.Error(), "step 2: expected: all 3 answers are from us-east-1; saw 2 × ") {
			t.Errorf("%+v: %v", bad, st.err)
		}
	}
	out.Reset()
	st.expect(true, "anything", "")
	st.do(func() error { t.Error("went on after an error"); return nil })
	if out.Len() > 0 {
		t.Errorf("went on after an error: %s", out.String())
	}
	st.err = nil
	st.all([]answer{good}, eastName)
	st.both([]answer{good, {body: from(westName), code: 200}})
	if st.err != nil || strings.Count(out.String(), "✓") != 2 {
		t.Errorf("%v: %s", st.err, out.String())
	}
	for _, all := range [][]answer{{good, good}, {good, {body: from(westName), code: 200}, {code: 503}}, nil} {
		st.err = nil
		if st.both(all); st.err == nil {
			t.Errorf("%+v is taken for both", all)
		}
	}
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, "1 2 3 3b 3r 3d 4 4b 5 6 7 7b"},
		{[]string{"4", "3c", "1"}, "1 3c 4"},
	} {
		got, err := Resolve(c.in)
		if strings.Join(got, " ") != c.want || err != nil {
			t.Errorf("%v: %v, %v", c.in, got, err)
		}
	}
	if _, err := Resolve([]string{"1", "nope"}); err == nil || !strings.Contains(err.Error(), `"nope"`) {
		t.Errorf("error %v", err)
	}
}
