package hcm

import (
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

// filters is what stands between the connection manager and the router for a request whose route is not plain: cors, fault,
// and then what the route changes in heads, hashes and mirrors. A connection has one from the first such request on.
type filters struct {
	c         *Conn
	decision  Decision
	query     route.Query
	rewrite   http1.RequestRewrite
	request   route.Edit
	response  route.Edit
	path      []byte
	location  []byte
	answers   bool // the route itself answers
	located   bool // with a Location
	host      []byte
	authority []byte   // that is sent in place of the client's
	origin    []byte   // that CORS allows to read the answer; nil: none
	cookies   [][]byte // Set-Cookie for the answer
	delay     event.Timer
	duration  event.Timer // max_stream_duration
	mirrors   mirrors
	faulted   bool // it counts among the active faults
}

// filter takes a request through the filters; the router is the last of them.
func (c *Conn) filter(d Decision) {
	f := c.filters
	if f == nil {
		f = &filters{c: c}
		f.delay.Init(c.D, f.afterDelay)
		f.duration.Init(c.D, f.tooLong)
		c.filters = f
	}
	f.decision, f.origin, f.cookies, f.located, f.answers = d, nil, nil, false, false
	f.query.Authority, f.query.Path, f.query.Head, f.query.Random = d.authority(&c.req), c.req.Path, &c.req, d.Random
	f.response.Reset()
	f.request.Reset() // values of the answer's fields are made of it even where the request is never changed
	rt := d.Route
	if rt.MaxDuration > 0 {
		f.duration.Schedule(rt.MaxDuration)
	}
	if rt.HasIdle {
		c.rearm()
	}
	if rt.CORS != nil && rt.Direct == nil && rt.Redirect == nil && f.cors(rt.CORS) {
		return
	}
	if rt.Fault != nil && rt.Fault.Concerns(rt, &f.query) && rt.Fault.Delays(c.random()) {
		c.info.Flags |= streaminfo.DelayInjected
		c.Stats.Fault.DelaysInjected.Inc()
		f.faulty()
		f.delay.Schedule(rt.Fault.Delay)
		c.s.Again() // a client that left right behind its request gives no further event
		return
	}
	f.abort()
}

// authority is the host that a request counts as being for.
func (d *Decision) authority(h *http1.Head) []byte {
	if h.Authority == nil {
		return d.Authority
	}
	return h.Authority
}

func (f *filters) stop() {
	f.delay.Stop()
	f.duration.Stop()
	f.mirrors.drop()
	if f.faulted {
		f.faulted = false
		f.c.Stats.Fault.Active.Dec()
	}
}

// faulty counts the request as one with a fault until it ends.
func (f *filters) faulty() {
	if !f.faulted {
		f.faulted = true
		f.c.Stats.Fault.Active.Inc()
	}
}

// tooLong ends a request that has lasted for its route's max_stream_duration.
func (f *filters) tooLong() {
	c := f.c
	if c.state != serving {
		return
	}
	if c.routing {
		c.routing = false
		c.router.Cancel()
	}
	c.info.CodeDetails = "max_duration_timeout"
	c.Fail(&proxyerr.Error{Reply: &proxyerr.Reply{Status: c.late(), Body: "downstream duration timeout"}})
}

// afterDelay goes on where a fault has delayed the request.
func (f *filters) afterDelay() {
	if f.c.state == serving {
		f.abort()
	}
}

// abort answers with a fault, or lets the request on to the router.
func (f *filters) abort() {
	c, rt := f.c, f.decision.Route
	if rt.Fault != nil && rt.Fault.Concerns(rt, &f.query) && rt.Fault.Aborts(c.random()) {
		c.info.CodeDetails = "fault_filter_abort"
		c.Stats.Fault.AbortsInjected.Inc()
		f.faulty()
		c.Fail(&proxyerr.Error{Flags: streaminfo.FaultInjected, Source: proxyerr.Config, Reply: &proxyerr.Reply{Status: rt.Fault.Status, Body: "fault filter abort"}})
		return
	}
	if f.decision.Err != nil {
		c.Fail(f.decision.Err)
		return
	}
	f.located, f.answers = rt.Locates(), rt.Direct != nil || rt.Redirect != nil
	if rt.Redirect != nil {
		c.info.CodeDetails = "direct_response"
		c.Stats.RqRedirect.Inc()
		c.Fail(&proxyerr.Error{Source: proxyerr.Config, Reply: &proxyerr.Reply{Status: rt.Redirect.Status}})
		return
	}
	if rt.Direct == nil && !f.prepare(rt) {
		return
	}
	c.toRouter(f.decision)
}

// prepare works out what changes in the request, where it is hashed to, and who gets a copy. It says whether the request can
// go on.
func (f *filters) prepare(rt *route.Route) bool {
	c := f.c
	rt.Request.Apply(&f.request, &c.req, f.context(nil))
	f.rewrite = http1.RequestRewrite{Drop: f.request.Drop, Add: f.request.Add}
	if rt.Path != nil {
		f.path = rt.Path.Append(f.path[:0], rt, c.req.Path)
		if len(f.path) == 0 || f.path[0] == '?' {
			f.path = append([]byte{'/'}, f.path...)
		}
		if len(f.path) > http1.MaxHead {
			f.path = nil
			c.Fail(&proxyerr.Error{Source: proxyerr.Config, Reply: &proxyerr.Reply{Status: 414, Body: "the rewritten path is too long"}})
			return false
		}
		f.rewrite.Path, f.query.Path = f.path, f.path
	}
	if rt.HostRewrite != "" {
		f.authority = append(f.authority[:0], rt.HostRewrite...)
		f.query.Authority = f.authority
	}
	if len(rt.Hash) > 0 {
		src := route.Source{Remote: c.Remote, Local: c.Local}
		if c.OriginalDst.IsValid() {
			src.Local = c.OriginalDst
		}
		p := &f.decision.Pick
		p.Hash, p.HasHash, f.cookies = rt.Hash64(&f.query, src)
	}
	if len(rt.Mirrors) > 0 {
		f.mirrors.begin(f)
	}
	return true
}

// context is what the values of header operations are made of; response is nil for those of requests.
func (f *filters) context(response *http1.Head) *route.Context {
	x := &route.Context{Info: &f.c.info, Query: &f.query, Request: &f.request, Response: response}
	if cl := f.decision.Cluster; cl != nil {
		x.Cluster, x.ClusterStat = cl.Name(), cl.Config().Proto.GetAltStatName()
	}
	return x
}

// Rewrite implements router.Stream.
func (c *Conn) Rewrite() http1.RequestRewrite { return c.filters.rewrite }

// EditResponse implements router.Stream: the route's operations, the cookies of its hash policies, then CORS.
func (c *Conn) EditResponse(h *http1.Head) *route.Edit {
	if c.rt == nil || c.rt.Plain {
		return nil
	}
	f := c.filters
	f.edit(h)
	if f.response.None() {
		return nil
	}
	return &f.response
}

func (f *filters) edit(h *http1.Head) {
	e, rt := &f.response, f.decision.Route
	for _, v := range f.cookies {
		e.Append(h, "set-cookie", v)
	}
	rt.Response.Apply(e, h, f.context(h))
	f.editCORS()
}

func (f *filters) editCORS() {
	if f.origin == nil {
		return
	}
	e, p := &f.response, f.decision.Route.CORS
	e.Set("access-control-allow-origin", f.origin)
	if p.Credentials {
		e.Set("access-control-allow-credentials", []byte("true"))
	}
	if p.Expose != "" {
		e.Set("access-control-expose-headers", []byte(p.Expose))
	}
}

// cors does what Envoy's filter does with a request, and answers preflights. It says whether it did.
func (f *filters) cors(p *route.CORS) (answered bool) {
	c := f.c
	if !p.Enabled(c.random()) {
		return false
	}
	origin := f.field("origin")
	if len(origin) == 0 {
		return false
	}
	allowed := p.Allows(origin)
	if allowed {
		f.origin = origin
		c.Stats.CORS.OriginValid.Inc()
	} else {
		c.Stats.CORS.OriginInvalid.Inc()
	}
	method := f.field("access-control-request-method")
	if c.req.MethodID != http1.OPTIONS || len(method) == 0 || !allowed && !p.AnswerUnmatched {
		return false
	}
	e := &f.response
	if p.Credentials {
		e.Set("access-control-allow-credentials", []byte("true"))
	}
	set := func(name, value string, star []byte) {
		switch {
		case value == "*":
			e.Set(name, star)
		case value != "":
			e.Set(name, []byte(value))
		}
	}
	set("access-control-allow-methods", p.Methods, method)
	set("access-control-allow-headers", p.Headers, f.field("access-control-request-headers"))
	if p.MaxAge != "" {
		e.Set("access-control-max-age", []byte(p.MaxAge))
	}
	f.editCORS()
	c.info.CodeDetails = "cors_response"
	c.rt = nil // nothing of the route is in this answer
	c.answer(proxyerr.Reply{Status: 200}, e)
	return true
}

func (f *filters) field(name string) []byte {
	if i := f.c.req.Find(name); i >= 0 {
		return f.c.req.Fields[i].Value
	}
	return nil
}

// local gives what the route and CORS change in an answer of our own, and Location where the route redirects.
func (f *filters) local(h *http1.Head) *route.Edit {
	rt, e := f.decision.Route, &f.response
	e.Reset()
	if f.located {
		f.location = rt.Location(f.location[:0], &f.query)
		e.Set("location", f.location)
		if p := rt.RedirectPath(); p != nil { // the path has been rewritten by then
			f.path = p.Append(f.path[:0], rt, f.query.Path)
			f.query.Path = f.path
		}
	}
	if f.answers || rt.Direct == nil && rt.Redirect == nil { // a fault comes before what such a route says
		x := f.context(h)
		x.Local = true
		rt.Response.Apply(e, h, x)
	}
	f.editCORS()
	return e
}

// random gives a value for a decision of its own.
func (c *Conn) random() uint64 { return (&lb.PickInfo{Rand: c.Rand}).Random() }
