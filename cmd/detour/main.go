// Command detour keeps an application's calls to external services working. See internal/cli for its verbs.
package main

import (
	"os"

	"detour.dev/detour/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
