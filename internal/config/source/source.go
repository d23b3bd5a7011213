// Package source owns what every source of configuration hands on: the full set of its files at one moment. Sources
// watch and read; they judge nothing.
package source

import (
	"context"
	"time"

	"detour.dev/detour/internal/config"
)

// File is one file's contents.
type File struct {
	Name string // as the user named it; "<stdin>" for standard input
	Data []byte // must not be changed
	// Whole: the file came complete, by rename or by the swap of a symbolic link, so it can't be half-written.
	Whole bool
}

// Update is everything a source holds: a file that is not there is gone. A file that can't be read stays with its
// last contents, and an issue says why.
type Update struct {
	// At is when the source began to look. A source that sets it sends what it saw last again until that has been the
	// same for longer than the pipeline asks a file to stand still: whoever waits for that must not go by the clock
	// alone, since a machine that is busy looks late.
	At     time.Time
	Files  []File // in the order the user gave them, then by name
	Issues []config.Issue
}

// Source watches configuration.
type Source interface {
	// Load reads everything once. What the user named and can't be read is an issue.
	Load() Update
	// Watch sends an update after every change, and confirmations (Update.At), until the context ends. It is called once, after Load. An update that
	// waits is replaced by a newer one.
	Watch(ctx context.Context, updates chan<- Update) error
}
