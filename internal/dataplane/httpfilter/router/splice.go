package router

import "detour.dev/detour/internal/dataplane/event"

// SpliceFrom: long bodies between plain sockets move inside the kernel. What is less than this to the end of a body or of a chunk is
// copied with one read and one write.
const SpliceFrom = 64 << 10

// spliceLeast is what splice must find at a time to be worth its cost; else the next bytes are copied.
const spliceLeast = 8 << 10

// maySplice says whether much payload of the response comes next that can go to the client unseen.
func (r *Router) maySplice() bool {
	if !r.bulk || r.dechunk || r.phase != responding || r.s.Socket() == nil || r.conn.Stream != event.Stream(r.conn.Sock) {
		return false
	}
	left := r.respBody.Remaining()
	return (left < 0 || left >= SpliceFrom || r.splicing && left >= spliceLeast) && r.conn.In.Fill == r.conn.In.Valid
}

// splice takes what the endpoint sent of the payload. It returns what Read would.
func (r *Router) splice() (int, error) {
	limit := r.respBody.Remaining()
	if limit < 0 {
		limit = turnBytes
	}
	n, err := r.spliced.Fill(r.conn.Sock, limit)
	r.bulk = err == event.ErrAgain || n >= spliceLeast
	r.splicing = true
	r.respBody.Skip(int64(n))
	r.respDone = r.respBody.Done()
	return n, err
}

// flushSpliced hands what was spliced to the client. It says whether all of it went.
func (r *Router) flushSpliced() bool {
	for r.spliced.Held() > 0 {
		_, err := r.s.SendSpliced(&r.spliced)
		if err == event.ErrAgain {
			return false
		}
		if err != nil {
			r.clientGone()
			return false
		}
	}
	return true
}

// TakesSpliced says whether payload of the request may be moved to the endpoint inside the kernel: all that came before is
// written.
func (r *Router) TakesSpliced() bool {
	return r.conn != nil && r.phase == sending && r.writeErr == nil && !r.unsent() && r.conn.Stream == event.Stream(r.conn.Sock)
}
