// Package examples holds configurations to start from: each folder is complete and can be given to -f. `detour demo`
// plays with these same files.
package examples

import "embed"

// FS has every folder with its YAML files.
//
//go:embed */*.yaml
var FS embed.FS
