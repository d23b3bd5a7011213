// Package mirror sends copies of requests to other clusters (request_mirror_policies). Nothing of what becomes of a copy
// reaches the request it was made of; answers are read and thrown away.
package mirror

import (
	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/httpfilter/router"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
)

// Limits of one worker's copies, maxBytes with those whose bodies are still arriving; a copy beyond them is not made.
const (
	maxCopies = 1024
	maxBytes  = 32 << 20
)

// Mirrors holds one worker's copies.
type Mirrors struct {
	Pools  *upstream.Pools
	copies map[*request]bool
	bytes  int
}

// Reserve takes n bytes of what all copies together may hold. It says whether there was room; Release gives them back.
func (m *Mirrors) Reserve(n int) bool {
	if m.bytes+n > maxBytes {
		return false
	}
	m.bytes += n
	return true
}

// Release gives back what Reserve took.
func (m *Mirrors) Release(n int) { m.bytes -= n }

// Send sends a whole request, which it keeps. It says whether there was room for it.
func (m *Mirrors) Send(raw []byte, rt *route.Route, c *cluster.Cluster, pick lb.PickInfo) bool {
	r := &request{m: m}
	n, err := http1.ParseRequest(raw, &r.head)
	if err != nil || n == 0 {
		return true // not reached: it is of our own making
	}
	if len(m.copies) >= maxCopies || !m.Reserve(len(raw)) {
		return false
	}
	r.body = buffer.Window{B: raw, Head: n, Sent: n, Valid: len(raw), Fill: len(raw)}
	r.size = len(raw)
	if m.copies == nil {
		m.copies = map[*request]bool{}
	}
	m.copies[r] = true
	r.router.Start(r, m.Pools, rt, c, pick)
	return true
}

// Close ends all copies.
func (m *Mirrors) Close() {
	for r := range m.copies {
		r.router.Cancel()
		r.done()
	}
}

// request is one copy: the router.Stream of a request whose client wants nothing.
type request struct {
	m       *Mirrors
	size    int
	head    http1.Head
	body    buffer.Window
	router  router.Router
	info    streaminfo.Info
	spliced event.Splice
}

func (r *request) done() {
	if r.m.copies[r] {
		delete(r.m.copies, r)
		r.m.Release(r.size)
	}
}

func (r *request) Request() *http1.Head                   { return &r.head }
func (r *request) Body() *buffer.Window                   { return &r.body }
func (r *request) Complete() bool                         { return true }
func (r *request) ReadMore()                              {}
func (r *request) Send(head, data []byte) (int, error)    { return len(head) + len(data), nil }
func (r *request) Socket() *event.Socket                  { return nil }
func (r *request) SendSpliced(*event.Splice) (int, error) { return 0, event.ErrAgain }
func (r *request) Spliced() *event.Splice                 { return &r.spliced }
func (r *request) Closing() bool                          { return false }
func (r *request) Authority() []byte                      { return r.head.Authority }
func (r *request) Responded(int)                          {}
func (r *request) Finish(bool)                            { r.done() }
func (r *request) Fail(*proxyerr.Error)                   { r.done() }
func (r *request) Info() *streaminfo.Info                 { return &r.info }
func (r *request) Rewrite() http1.RequestRewrite          { return http1.RequestRewrite{} }
func (r *request) EditResponse(*http1.Head) *route.Edit   { return nil }
func (r *request) Tunnel(c *upstream.Conn, _ []byte, done func()) { // not reached: copies ask for no upgrade
	c.Close()
	done()
	r.done()
}
