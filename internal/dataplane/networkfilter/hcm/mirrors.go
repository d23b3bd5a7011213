package hcm

import (
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/route"
)

// maxMirrored bounds the body of a request that is copied; a longer one is not.
const maxMirrored = 1 << 20

// mirrors are the copies of one request that go out once it has arrived (request_mirror_policies).
type mirrors struct {
	f     *filters
	to    []*route.Mirror
	heads [][]byte
	body  []byte
	held  int // bytes reserved for all this among those of the worker
}

// begin notes who gets a copy, and what has come of the body.
func (m *mirrors) begin(f *filters) {
	c, rt := f.c, f.decision.Route
	m.f = f
	for i := range rt.Mirrors {
		one := &rt.Mirrors[i]
		if !one.Takes(f.query.Random) {
			continue
		}
		host := f.query.Authority
		if rt.HostRewrite != "" {
			host = []byte(rt.HostRewrite)
		}
		rw := f.rewrite
		f.host = one.Authority(f.host[:0], host)
		rw.Authority = f.host
		rw.Drop = append(rw.Drop[:len(rw.Drop):len(rw.Drop)], "expect")
		rw.NoUpgrade = true
		m.to = append(m.to, one)
		m.heads = append(m.heads, http1.AppendRequest(nil, &c.req, rw))
	}
	for _, h := range m.heads {
		if !m.hold(len(h)) {
			return
		}
	}
	m.add(c.in.B[c.in.Head:c.in.Valid])
}

// hold reserves room for n bytes, or ends the copies where there is none.
func (m *mirrors) hold(n int) bool {
	if !m.f.c.Mirrors.Reserve(n) {
		m.abandon()
		return false
	}
	m.held += n
	return true
}

// abandon drops the copies because of a limit.
func (m *mirrors) abandon() {
	if up := m.f.decision.Cluster; up != nil {
		up.Stats().RetryOrShadowAbandoned.Inc()
	}
	m.drop()
}

// add takes more of the body, and sends the copies once it is whole.
func (m *mirrors) add(b []byte) {
	if len(m.to) == 0 {
		return
	}
	c := m.f.c
	if len(m.body)+len(b) > maxMirrored {
		m.abandon()
		return
	}
	if !c.complete {
		if m.hold(len(b)) {
			m.body = append(m.body, b...)
		}
		return
	}
	c.Mirrors.Release(m.held) // each copy reserves its own size
	m.held = 0
	for i, to := range m.to {
		if !c.Env.Mirror(to.Route, append(append(m.heads[i], m.body...), b...)) {
			m.abandon()
			return
		}
	}
	m.drop()
}

func (m *mirrors) drop() {
	if m.held > 0 {
		m.f.c.Mirrors.Release(m.held)
	}
	m.to, m.heads, m.body, m.held = m.to[:0], m.heads[:0], nil, 0
}

// pending says that the request's body is still being copied.
func (m *mirrors) pending() bool { return len(m.to) > 0 }
