package upstream

import "testing"

// BenchmarkPool gives a connection back and takes it again, as each request does: what the loop was told of the socket says
// whether the peer has closed it, so that no system call is needed.
func BenchmarkPool(b *testing.B) {
	addr, conns := listen(b)
	r := newRig(b, static(addr))
	w, h := r.dial("static", addr)
	c := <-w.conn
	peer := <-conns
	defer peer.Close()
	b.ReportAllocs()
	r.on(func() {
		w.done()
		cl := r.p.Clusters.Get("static")
		for b.Loop() {
			r.p.Put(c)
			if got := r.p.Idle(cl, h, "", client{}); got != c {
				b.Errorf("got %p, want %p", got, c)
				return
			}
		}
		c.Close()
	})
}
