// Command detour keeps an application's calls to external services working. See internal/cli for its verbs.
package main

import (
	"os"

	"detour.dev/detour/internal/cli"
	"detour.dev/detour/internal/intercept/netns"
)

func main() {
	netns.MaybeChild() // one of run's own processes does not come back from here
	os.Exit(cli.Main(os.Args[1:]))
}
