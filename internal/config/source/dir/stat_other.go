//go:build !linux

package dir

import "io/fs"

// movedSinceWritten can't tell here; a file that was renamed is then taken after it stood still.
func movedSinceWritten(fs.FileInfo) bool { return false }

// sameAs can't tell here.
func sameAs(string, fs.FileInfo) bool { return false }
