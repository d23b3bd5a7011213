package netns

import "golang.org/x/sys/unix"

// dup is dup3, since not every architecture of Linux has dup2.
func dup(from, to int) error { return unix.Dup3(from, to, 0) }
