// Package demo owns `detour demo`: the walkthrough by itself. It starts this program again in namespaces of its own
// (user, network, mount, processes), so that no network and no root is needed, nothing of the machine is touched and
// nothing is left behind. Inside live two stand-in regional servers and a DNS server; the proxy is the real `detour run`,
// the configuration are the files of package examples, the requests are curl's. Each step checks what it shows.
package demo

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Variable, in the environment, makes this program the inside of a demo: its value is an Options in JSON.
const Variable = "DETOUR_DEMO_INSIDE"

// ErrUnavailable says that this machine can't give the demo its namespaces.
var ErrUnavailable = errors.New("the demo needs a Linux network namespace of its own")

// Options say what to play and how it looks.
type Options struct {
	// Steps are the ids of the steps to play; none: all but the slow ones. Resolve checks them.
	Steps []string
	// Color turns escape sequences on. Live says that a line may be written over, to count.
	Color, Live bool
	// Binary is the detour to show; "/proc/self/exe" if empty.
	Binary string
	// KillBefore is for tests: it kills the near stand-in for good, unasked, before the requests of this step.
	KillBefore string
	// Stdout and Stderr are where everything is written; nil: the process's own.
	Stdout, Stderr *os.File `json:"-"`

	work string // directory for everything that is written; Run makes and removes it
}

// Info describes a step.
type Info struct {
	ID, Title string
	// Slow steps are played only when asked for by id.
	Slow bool
}

// Steps lists all steps in the order of the walkthrough.
func Steps() []Info {
	var out []Info
	for _, s := range steps {
		out = append(out, s.Info)
	}
	return out
}

// Resolve gives the ids of the steps to play, in the order of the walkthrough; a name that is no step's is an error.
func Resolve(names []string) ([]string, error) {
	var ids []string
	known := map[string]bool{}
	for _, s := range steps {
		known[s.ID] = true
		if slices.Contains(names, s.ID) || len(names) == 0 && !s.Slow {
			ids = append(ids, s.ID)
		}
	}
	for _, n := range names {
		if !known[n] {
			return nil, fmt.Errorf("there is no step %q; the steps are %s", n, strings.Join(allIDs(), ", "))
		}
	}
	return ids, nil
}

func allIDs() (ids []string) {
	for _, s := range steps {
		ids = append(ids, s.ID)
	}
	return ids
}
