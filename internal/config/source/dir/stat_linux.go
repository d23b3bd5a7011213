package dir

import (
	"io/fs"
	"syscall"
)

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
