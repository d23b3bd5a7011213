package cli

import (
	"errors"
	"strings"
	"testing"
)

// A mistyped verb or flag is told with the nearest one, whatever flags come after it.
func TestSuggestions(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		want   string
	}{
		{"analyse", ExitUsage, "unknown command \"analyse\" for \"detour\" (did you mean `analyze`?) (see 'detour --help')"},
		{"analyse -f c", ExitUsage, "unknown command \"analyse\" for \"detour\" (did you mean `analyze`?) (see 'detour --help')"},
		{"prxoy -f c --locality x", ExitUsage, "unknown command \"prxoy\" for \"detour\" (did you mean `proxy`?) (see 'detour --help')"},
		{"bogus -f c", ExitUsage, "unknown command \"bogus\" for \"detour\" (see 'detour --help')"},
		{"-f c", ExitUsage, "unknown shorthand flag: 'f' in -f (see 'detour --help')"},
		{"pc rotues --name 80", ExitUsage, "unknown command \"rotues\" for \"detour proxy-config\" (did you mean `routes`?) (see 'detour proxy-config --help')"},
		{"pc rotues --port 80", ExitUsage, "unknown command \"rotues\" for \"detour proxy-config\" (did you mean `routes`?) (see 'detour proxy-config --help')"},
		{"pc ep --clutser x", ExitUsage, "unknown flag: --clutser (did you mean `--cluster`?) (see 'detour proxy-config endpoints --help')"},
		{"run --localty x -- true", exitRun, "run: unknown flag: --localty (did you mean `--locality`?) (see 'detour run --help')"},
		{"run -localty x -- true", exitRun, "run: unknown shorthand flag: 'l' in -localty (did you mean `--locality`?) (see 'detour run --help')"},
		{"analyze -f c --bogus", ExitUsage, "unknown flag: --bogus (see 'detour analyze --help')"},
		{"analyze -f c x --strikt", ExitUsage, "unknown flag: --strikt (did you mean `--strict`?) (see 'detour analyze --help')"},
		{"analyze -z", ExitUsage, "unknown shorthand flag: 'z' in -z (see 'detour analyze --help')"},
		{"demo --stpe", ExitUsage, "unknown flag: --stpe (did you mean `--step`?) (see 'detour demo --help')"},
		{"demo --step", ExitUsage, "flag needs an argument: --step (see 'detour demo --help')"},
	} {
		_, _, err := execute(t, newRoot(), "", strings.Fields(tt.args)...)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Status != tt.status || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s (status %d)", tt.args, err, tt.want, tt.status)
		}
	}
}

// --version says what the verb says, and takes no letter of run's.
func TestVersionFlag(t *testing.T) {
	verb, _, err := execute(t, newRoot(), "", "version")
	if err != nil || !strings.HasPrefix(verb, "detour ") || !strings.HasSuffix(verb, ")\n") {
		t.Errorf("%q, %v", verb, err)
	}
	if flag, _, err := execute(t, newRoot(), "", "--version"); err != nil || flag != verb {
		t.Errorf("%q, %v, want %q", flag, err, verb)
	}
	if _, _, err := execute(t, newRoot(), "", "-v"); err == nil {
		t.Error("-v is taken")
	}
}
