package cli

import (
	"strings"
	"testing"
)

// TestHelp: every flag's help names what it takes in the manual's words.
func TestHelp(t *testing.T) {
	for _, verb := range verbs {
		c := verb()
		if u := c.Flags().FlagUsages(); strings.Contains(u, "[]") || strings.Contains(u, "stringArray") || strings.Contains(u, "stringToString") {
			t.Errorf("%s:\n%s", c.Name(), u)
		}
	}
}
