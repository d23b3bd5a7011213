package http1

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const casesDir = "../../../../testdata/http"

type part struct {
	Text   string `json:"text"`
	Repeat int    `json:"repeat"`
}

type requestCase struct {
	ID        string   `json:"id"`
	Verdict   string   `json:"verdict"`
	Bytes     []part   `json:"bytes"`
	Then      string   `json:"then"`
	MustClose bool     `json:"must_close"`
	Forbidden string   `json:"forbidden_upstream_regex"`
	Must      []string `json:"upstream_must_match"`
}

type responseCase struct {
	ID     string   `json:"id"`
	Method string   `json:"method"`
	Bytes  []part   `json:"upstream_bytes"`
	Then   string   `json:"then"`
	Want   string   `json:"want"`
	Must   []string `json:"client_must_match"`
}

func loadCases[T any](t testing.TB, name string) (cases []T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(casesDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatalf("%s: no cases", name)
	}
	return cases
}

// latin1 makes one byte of each character.
func latin1(parts []part) (b []byte) {
	for _, p := range parts {
		var one []byte
		for _, r := range p.Text {
			one = append(one, byte(r))
		}
		for range max(p.Repeat, 1) {
			b = append(b, one...)
		}
	}
	return b
}

// chars makes one character of each byte, so that a regexp sees bytes.
func chars(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		s.WriteRune(rune(c))
	}
	return s.String()
}

// longRepeat is a repetition that the regexp package refuses (it takes at most 1000).
var longRepeat = regexp.MustCompile(`([a-z])\{(\d{4,})\}`)

func pattern(p string) *regexp.Regexp {
	return regexp.MustCompile(longRepeat.ReplaceAllStringFunc(p, func(s string) string {
		m := longRepeat.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	}))
}

func mustMatch(t *testing.T, out string, patterns []string) {
	t.Helper()
	for _, p := range patterns {
		if !pattern(p).MatchString(out) {
			t.Errorf("%q does not match %s", out, p)
		}
	}
}

func TestRequestCases(t *testing.T) {
	for _, c := range loadCases[requestCase](t, "request-cases.json") {
		t.Run(c.ID, func(t *testing.T) {
			r := relayRequests(latin1(c.Bytes), c.Then == "fin")
			out := chars(r.out)
			switch c.Verdict {
			case "R":
				if r.err == nil || len(r.out) > 0 {
					t.Errorf("not refused: err %v, forwarded %q", r.err, out)
				}
			case "B":
				if r.err == nil || r.complete || r.messages > 0 {
					t.Errorf("broken body: err %v, complete %v, forwarded %.200q", r.err, r.complete, out)
				}
			case "N":
				if pattern(c.Forbidden).MatchString(out) {
					t.Errorf("forwarded %q", out)
				}
				if r.err == nil && !r.complete {
					t.Errorf("neither refused nor a whole message: %q", out)
				}
			case "A":
				if r.err != nil || !r.complete || len(r.rest) > 0 || r.messages == 0 {
					t.Errorf("not accepted: err %v, %d messages, forwarded %q", r.err, r.messages, out)
				}
				mustMatch(t, out, c.Must)
			default:
				t.Fatalf("unknown verdict %q", c.Verdict)
			}
			if e, _ := r.err.(*Error); r.err != nil && (e == nil || e.Status < 400 || e.Status > 599) {
				t.Errorf("error without a status: %v", r.err)
			}
			if c.MustClose && r.err == nil && r.last.KeepAlive {
				t.Error("the connection stays open")
			}
		})
	}
}

func TestResponseCases(t *testing.T) {
	for _, c := range loadCases[responseCase](t, "response-cases.json") {
		t.Run(c.ID, func(t *testing.T) {
			asked := Asked{Method: methodID([]byte(c.Method))}
			r := relayResponse(latin1(c.Bytes), asked, 1, c.Then == "close")
			out := chars(r.out)
			reusable := r.complete && r.last.KeepAlive && len(r.rest) == 0
			switch c.Want {
			case "502", "502|te", "502|clean":
				if r.err == nil || len(r.out) > 0 {
					t.Errorf("not refused: %q", out)
				}
			case "502|any":
				// Anything may reach the client; that the connection isn't used again is checked below.
			case "abort":
				if r.complete {
					t.Errorf("looks complete: %q", out)
				}
				if c.Then != "rst" && r.err == nil { // a reset is the driver's to see
					t.Error("no error")
				}
			case "noevil":
				if strings.Contains(out, "EVIL") {
					t.Errorf("relayed %q", out)
				}
			case "pass":
				if r.err != nil || !r.complete || len(r.rest) > 0 {
					t.Errorf("not relayed: err %v, %q", r.err, out)
				}
				mustMatch(t, out, c.Must)
			default:
				t.Fatalf("unknown want %q", c.Want)
			}
			if c.Want != "pass" && reusable {
				t.Error("the upstream connection could be used again")
			}
		})
	}
}
