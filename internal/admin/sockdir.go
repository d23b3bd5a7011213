package admin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// SocketDir gives the directory in which every running detour of this user has its admin socket:
// $XDG_RUNTIME_DIR/detour, else detour-UID in the directory for temporary files. It is made if need be. One that others
// could write to, or that belongs to somebody else, is an error.
func SocketDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "detour-"+strconv.Itoa(os.Getuid()))
	if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
		if info, err := os.Stat(run); err == nil && info.IsDir() {
			dir = filepath.Join(run, "detour")
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("directory of admin sockets %s: %w", dir, reason(err))
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("directory of admin sockets %s: %w", dir, reason(err))
	}
	if !info.IsDir() {
		return "", fmt.Errorf("directory of admin sockets %s: is no directory", dir)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Getuid() {
		return "", fmt.Errorf("directory of admin sockets %s: belongs to user %d", dir, s.Uid)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("directory of admin sockets %s: mode %#o lets others in, it must be 0700", dir, info.Mode().Perm())
	}
	return dir, nil
}

// ListenPrivate binds this process's own socket, PID.sock in SocketDir, by which pc and ps find it.
func ListenPrivate() (net.Listener, error) {
	dir, err := SocketDir()
	if err != nil {
		return nil, err
	}
	return Listen("unix:" + SocketPath(dir, os.Getpid()))
}

// SocketPath names the socket of a process.
func SocketPath(dir string, pid int) string { return filepath.Join(dir, strconv.Itoa(pid)+".sock") }

// Socket is the admin socket of one running detour.
type Socket struct {
	PID  int
	Path string
}

// Sockets lists the sockets in dir that somebody answers on, by process id, and removes those that dead processes left.
func Sockets(dir string) ([]Socket, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of admin sockets %s: %w", dir, reason(err))
	}
	var all []Socket
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".sock")
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 0 || strconv.Itoa(pid) != name {
			continue
		}
		s := Socket{PID: pid, Path: filepath.Join(dir, e.Name())}
		// clearStale finds a dead socket and removes it; of a live one it says that another process listens.
		if err := clearStale(s.Path); err != nil {
			all = append(all, s)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].PID < all[j].PID })
	return all, nil
}
