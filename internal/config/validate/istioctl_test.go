package validate

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestIstioctl holds the verdicts against those of `istioctl validate`, of which testdata/istioctl.txt keeps one for each
// rule and kind of mistake: what it refuses is refused, what it warns of is told, and what it accepts is not refused, but
// for what is marked as stricter on purpose.
func TestIstioctl(t *testing.T) {
	data, err := os.ReadFile("testdata/istioctl.txt")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for n, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.SplitN(line, "\t", 3)
		if len(f) != 3 {
			t.Fatalf("line %d has %d columns", n+1, len(f))
		}
		rows++
		doc := fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: %s\nmetadata: {name: x}\nspec: %s\n", f[1], f[2])
		issues, got := judge("f", []byte(doc))
		right := false
		switch f[0] {
		case "reject", "stricter":
			right = got == "reject"
		case "warn":
			right = got == "warn"
		case "accept":
			right = got != "reject"
		}
		if !right {
			t.Errorf("line %d: %s, and istioctl says %s of %s %s\n%v", n+1, got, f[0], f[1], f[2], issues)
		}
		for _, i := range issues {
			if i.Origin.Line < 1 || i.Origin.Column < 1 || i.Code == "" || strings.Contains(i.Message, "\n") {
				t.Errorf("line %d: no place, no code or several lines: %q", n+1, i)
			}
		}
	}
	if rows < 1000 {
		t.Fatalf("%d rows", rows)
	}
}

// TestNearestWord: where a word is misspelt, the message gives the one that was likely meant.
func TestNearestWord(t *testing.T) {
	for in, want := range map[string]string{
		se("resolution: DNSS"):               "(did you mean `DNS`?)",
		se("resolution: DNS, endpionts: []"): "(did you mean `endpoints`?)",
		strings.Replace(se("resolution: DNS"), "protocol: HTTP", "protocol: htpp", 1): "(did you mean `HTTP`?)",
		vs(toA + ", retries: {attempts: 1, retryOn: connect-failures}"):               "(did you mean `connect-failure`?)",
		strings.Replace(dr(""), "kind: DestinationRule", "kind: DestinationRules", 1): "(did you mean `DestinationRule`?)",
	} {
		issues, _ := judge("f", []byte(in))
		if len(issues) == 0 || !strings.Contains(issues[0].Message, want) {
			t.Errorf("%s: %v does not say %s", in, issues, want)
		}
	}
}
