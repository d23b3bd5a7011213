//go:build unix

package cli

import "golang.org/x/sys/unix"

// dupCloexec duplicates a descriptor; the duplicate shares its non-blocking mode.
func dupCloexec(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3) }
