package dir

import (
	"io/fs"
	"syscall"
)

// sameAs tells whether a path still is the regular file of which that was known, with the same size, mode and time. It may
// say no where it can't tell. It is asked of thousands of files again and again, so it allocates next to nothing.
func sameAs(path string, info fs.FileInfo) bool {
	was, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	var is syscall.Stat_t
	return syscall.Lstat(path, &is) == nil && is.Dev == was.Dev && is.Ino == was.Ino && is.Size == was.Size && is.Mode == was.Mode && is.Mtim == was.Mtim
}

// movedSinceWritten tells whether a file's inode changed after its contents did: a rename does that, a write moves both
// times together. Within one step of the file system's clock it can't tell and says no.
func movedSinceWritten(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	if st.Ctim.Sec != st.Mtim.Sec {
		return st.Ctim.Sec > st.Mtim.Sec
	}
	return st.Ctim.Nsec > st.Mtim.Nsec
}
