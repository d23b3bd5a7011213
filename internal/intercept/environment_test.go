package intercept_test

import (
	"slices"
	"strings"
	"testing"

	"detour.dev/detour/internal/intercept"
)

func TestEnvironment(t *testing.T) {
	env := intercept.Environment("127.0.0.1:4711")
	for _, want := range []string{
		"http_proxy=http://127.0.0.1:4711", "HTTP_PROXY=http://127.0.0.1:4711",
		"https_proxy=http://127.0.0.1:4711", "HTTPS_PROXY=http://127.0.0.1:4711",
		"ALL_PROXY=http://127.0.0.1:4711", "no_proxy=localhost,127.0.0.0/8,::1", "NO_PROXY=localhost,127.0.0.0/8,::1",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
	if clean, inherited := intercept.CleanEnvironment(env); len(clean) != 0 || len(inherited) != len(env) {
		t.Errorf("kept %q", clean)
	}
}

func TestCleanEnvironment(t *testing.T) {
	env := []string{"PATH=/bin", "http_proxy=http://user:secret@proxy:3128", "HTTP_PROXY_PORT=1", "NO_PROXY=a", "EMPTY=", "odd", "no_proxyx=1"}
	clean, inherited := intercept.CleanEnvironment(env)
	if want := []string{"PATH=/bin", "HTTP_PROXY_PORT=1", "EMPTY=", "odd", "no_proxyx=1"}; !slices.Equal(clean, want) {
		t.Errorf("kept %q, want %q", clean, want)
	}
	if want := []string{"http_proxy=http://user:secret@proxy:3128", "NO_PROXY=a"}; !slices.Equal(inherited, want) {
		t.Errorf("took %q, want %q", inherited, want)
	}
	line := intercept.InheritedLine(inherited)
	if strings.Contains(line, "secret") || !strings.HasPrefix(line, "http_proxy, NO_PROXY unset") {
		t.Errorf("%q", line)
	}
}
