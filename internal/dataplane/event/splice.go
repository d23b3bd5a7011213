//go:build unix

package event

import "errors"

// ErrNoSplice says that these bytes can't be moved without copying: the system has no splice, or too many pipes are in use.
var ErrNoSplice = errors.New("no splice")

// Splice moves bytes from one socket to another inside the kernel (splice(2) through a pipe). The zero Splice is empty.
// It belongs to the dispatcher of its sockets; Drop must be called before it is forgotten.
type Splice struct {
	pipe *pipe
	held int
}

// Held is how many bytes wait to be drained.
func (sp *Splice) Held() int { return sp.held }

// Drop discards what is held and gives the pipe back.
func (sp *Splice) Drop(d *Dispatcher) { sp.giveBack(d) }
