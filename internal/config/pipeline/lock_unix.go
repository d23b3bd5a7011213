//go:build unix

package pipeline

import (
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes an exclusive lock that ends when f is closed; it does not wait.
func tryLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
