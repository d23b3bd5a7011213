package upstream

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"time"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream/tlstransport"
)

// Times of guarantee E3 (DESIGN.md).
const (
	hedgeMin = 300 * time.Millisecond
	hedgeMax = 400 * time.Millisecond
	// synVerdict is when an unanswered SYN counts against its endpoint: the kernel has sent it twice by then.
	synVerdict = 1200 * time.Millisecond
	// helloVerdict is when an unanswered ClientHello does.
	helloVerdict = 2 * time.Second
	// probeEvery is the least time between two connections made only to see whether an endpoint answers.
	probeEvery = 5 * time.Second
	// LastMove is when an unsent request stops waiting for a connection although no hedge was in the budget.
	LastMove = 450 * time.Millisecond
	// askAgain is the pause before a silent endpoint without outlier detection is asked again.
	askAgain = 2 * time.Second
)

// Waiter is the request that a connection is made for.
type Waiter interface {
	// Connected hands over the connection and the pick's bookkeeping.
	Connected(d *Dial, c *Conn, res lb.Result)
	// ConnectFailed says that the attempt failed; its endpoint has been judged already.
	ConnectFailed(d *Dial, err *proxyerr.Error)
	// ConnectSlow says that the endpoint has not answered within 3 × its usual time: the waiter may try another one and
	// abandon this attempt or not.
	ConnectSlow(d *Dial)
	// Alone says that no other attempt runs for the same request, so that this one may take its time.
	Alone() bool
}

// Dial is one connection attempt. It may outlive the request that it was made for: the attempt that loses a race runs on
// until it is decided, so that the endpoint is judged by its own answer.
type Dial struct {
	p        *Pools
	cluster  *cluster.Cluster
	res      lb.Result
	waiter   Waiter // nil once abandoned, and for a probe
	name     string // server name for TLS where the cluster takes it from the request
	sock     *event.Socket
	tls      *tlstransport.Handshake
	via      *viaHandshake // nil on the direct way, and once the forward proxy has let the connection through
	began    time.Time
	timer    event.Timer
	reached  bool // the SYN was answered, by the forward proxy where there is one
	answered bool // the endpoint has: to the SYN, or by the forward proxy's word
	slow     bool
	unheard  bool // the ClientHello was left unanswered
	ended    bool
	probe    bool
	plain    bool // a probe that ends with the answer to the SYN
	keep     bool // a connection that nobody waits for any more serves the next request
	counted  bool // it holds a place among the cluster's connections
	addr     netip.AddrPort
	passed   int // addresses of a logical host that failed before addr
	client
}

// Host is the endpoint being connected to.
func (d *Dial) Host() *lb.Host { return d.res.Endpoint.Host }

// Dial begins a connection to the picked endpoint. An error means that it failed at once; the endpoint has been judged, but with
// NoRoom, where there is no Dial.
// name is the server name for TLS where the cluster derives it from the request (auto_sni); keep says that the connection may
// serve another request if this one no longer needs it.
func (p *Pools) Dial(c *cluster.Cluster, res lb.Result, name string, keep bool, w Waiter) (*Dial, *proxyerr.Error) {
	d := &Dial{p: p, cluster: c, res: res, waiter: w, name: name, keep: keep, began: p.D.Now()}
	h := res.Endpoint.Host
	st := c.Stats()
	if !p.roomFor(c) {
		st.UpstreamCxOverflow.Inc()
		res.Done(lb.Outcome{Now: d.began, Kind: lb.Cancelled})
		return nil, NoRoom
	}
	d.counted = true
	d.begin()
	st.UpstreamCxTotal.Inc()
	h.Stats.CxTotal.Inc()
	c.Hedge().Count(d.began)
	if err := d.connect(); err != nil {
		return d, d.fail(d.connectError(err, true))
	}
	d.timer.Schedule(min(HedgeDelay(h), d.cluster.Config().ConnectTimeout))
	return d, nil
}

// begin enters the attempt in the books; end takes it out.
func (d *Dial) begin() {
	p := d.p
	d.timer.Init(p.D, d.onTimer)
	p.host(d.Host()).dials++
	if p.dialing == nil {
		p.dialing = map[*Dial]struct{}{}
	}
	p.dialing[d] = struct{}{}
}

// connect begins a connection to the host, or to the next address of a logical one where it fails at once.
func (d *Dial) connect() (err error) {
	p, h := d.p, d.Host()
	for {
		if via := p.Via.For(h); via != nil && h.Path == "" {
			d.via = newViaHandshake(via, h)
			d.sock, err = p.D.Connect(via.addr, "", d)
			return err
		}
		d.addr = h.Target()
		if d.sock, err = p.D.Connect(d.addr, h.Path, d); err == nil || !d.next() {
			return err
		}
	}
}

// next turns to the next address of a logical host, all of which are one attempt's, as in Envoy. It says whether there is one.
func (d *Dial) next() bool {
	h := d.Host()
	if d.via != nil || d.passed+1 >= h.Addresses() {
		return false
	}
	d.passed++
	h.MoveOnFrom(d.addr)
	return true
}

// refused handles the failure of a connection that had begun.
func (d *Dial) refused(err error) {
	if d.next() {
		d.sock.Close()
		if err = d.connect(); err == nil {
			return
		}
	}
	d.finish(d.fail(d.connectError(err, false)))
}

// HedgeDelay is how long an attempt may stay unanswered before another is made beside it.
func HedgeDelay(h *lb.Host) time.Duration {
	return min(max(3*h.UsualConnect(), hedgeMin), hedgeMax)
}

// Abandon lets the attempt run on without its request.
func (d *Dial) Abandon() {
	d.waiter = nil
	if d.p.Compat {
		d.cancel()
	}
}

// cancel ends the attempt without a judgement.
func (d *Dial) cancel() {
	if d.ended {
		return
	}
	d.end()
	d.res.Done(lb.Outcome{Now: d.p.D.Now(), Kind: lb.Cancelled})
	if d.sock != nil {
		d.sock.Close()
	}
}

func (d *Dial) end() {
	d.ended = true
	delete(d.p.dialing, d)
	d.timer.Stop()
	if d.tls != nil {
		d.tls.Cancel()
	}
	h := d.Host()
	hp := d.p.host(h)
	hp.dials--
	if d.probe {
		hp.probing = false
	}
	if d.counted {
		d.p.release(d.cluster)
	}
	d.p.forget(h, hp)
}

// onTimer runs at the hedge delay, at the verdict, and at the connect timeout, in that order.
func (d *Dial) onTimer() {
	now := d.p.D.Now()
	age := now.Sub(d.began)
	timeout := d.cluster.Config().ConnectTimeout
	switch {
	case age >= timeout:
		d.finish(d.fail(d.timeoutError()))
	case d.p.Compat:
		d.timer.Schedule(timeout - age)
	case !d.slow:
		d.slow = true
		if !d.answered && (d.via == nil || d.reached) || d.tls != nil {
			d.Host().SetSuspect(true)
		}
		d.timer.Schedule(min(synVerdict, timeout) - age)
		if d.waiter != nil {
			d.waiter.ConnectSlow(d)
		}
	case age >= synVerdict && (d.waiter == nil || !d.waiter.Alone()) && !d.answered && d.via == nil: // a proxy may take its time
		d.finish(d.fail(d.timeoutError()))
	case age >= helloVerdict && (d.waiter == nil || !d.waiter.Alone()) && d.tls != nil:
		d.finish(d.fail(d.timeoutError()))
	default:
		next := timeout
		if age < helloVerdict {
			next = min(helloVerdict, timeout)
		}
		d.timer.Schedule(next - age)
	}
}

func (d *Dial) timeoutError() *proxyerr.Error {
	err := &proxyerr.Error{Flags: sf.UpstreamConnectionFailure, Kind: lb.ConnectTimeout, Unsent: true, Detail: proxyerr.ConnectionTimeout,
		Cause: errors.New("no answer to the connection attempt")}
	if d.tls != nil {
		d.unheard = true
		err.Kind, err.Cause = lb.TLSFailed, errors.New("no answer to the ClientHello")
	}
	switch {
	case d.via == nil:
	case !d.reached:
		return d.via.unreachable(err.Cause)
	default:
		err.Cause = d.via.refused(errors.New("no answer to CONNECT")).Cause
	}
	return err
}

// connectError classifies the failure of the first step, which says nothing about the endpoint where a forward proxy is
// between.
func (d *Dial) connectError(err error, atOnce bool) *proxyerr.Error {
	if d.via != nil {
		return d.via.unreachable(err)
	}
	return proxyerr.Connect(err, atOnce)
}

// fail judges the endpoint and gives the error back.
func (d *Dial) fail(err *proxyerr.Error) *proxyerr.Error {
	d.end()
	if d.sock != nil {
		d.sock.Close()
	}
	h, st := d.Host(), d.cluster.Stats()
	st.UpstreamCxConnectFail.Inc()
	h.Stats.CxConnectFail.Inc()
	if err.Kind == lb.ConnectTimeout {
		st.UpstreamCxConnectTimeout.Inc()
	}
	d.res.Done(lb.Outcome{Now: d.p.D.Now(), Kind: err.Kind, Err: err.Cause, Addr: d.addr})
	d.judged(err.Kind)
	if err.Kind != lb.OurFault {
		d.p.Clusters.Refresh(h)
	}
	return err
}

func (d *Dial) finish(err *proxyerr.Error) {
	if w := d.waiter; w != nil {
		d.waiter = nil
		w.ConnectFailed(d, err)
	}
}

// OnEvent hears of the connection attempt's outcome.
func (d *Dial) OnEvent(readable, writable bool) {
	if d.ended || !readable && !writable {
		return
	}
	if !d.reached {
		if !writable {
			return
		}
		if err := d.sock.Connected(); err != nil {
			d.refused(err)
			return
		}
		d.reached = true
	}
	if d.via != nil {
		switch done, err := d.via.step(d.sock); {
		case err != nil:
			d.finish(d.fail(err))
			return
		case !done:
			return
		}
		d.via = nil
		d.sock.Again() // what the endpoint said first may be there already, without a further event
	}
	if err := d.introduce(); err != nil {
		d.finish(d.fail(d.connectError(err, false)))
		return
	}
	d.onAnswered()
	d.secure()
}

// introduce writes the PROXY protocol's header where the cluster asks for it. It is smaller than any socket's buffer.
func (d *Dial) introduce() error {
	version := d.cluster.Config().ProxyProtocol
	if version == 0 || d.plain {
		return nil
	}
	header := proxyHeader(version, d.from, d.to)
	n, err := d.sock.Write(header)
	if err == nil && n < len(header) {
		err = errors.New("no room for the PROXY header")
	}
	return err
}

func (d *Dial) onAnswered() {
	d.answered = true
	h := d.Host()
	if d.plain || d.cluster.Config().TransportSocket == nil { // else the ClientHello has to be answered too
		h.SetSuspect(false)
	}
	took := d.p.D.Now().Sub(d.began)
	h.ObserveConnect(took)
	d.cluster.Stats().UpstreamCxConnectMs.Record(took)
}

// secure opens TLS where the cluster asks for it.
func (d *Dial) secure() {
	cfg := d.cluster.Config()
	if cfg.TransportSocket == nil || d.plain {
		d.established(d.sock)
		return
	}
	ctx, err := d.p.TLS.Get(cfg)
	if err != nil {
		d.finish(d.fail(tlsError(err)))
		return
	}
	h := d.Host()
	params := tlstransport.Params{ServerName: d.name, Hostname: h.Hostname, EndpointKey: h.String()}
	if cfg.HTTP.AutoSANValidation {
		params.VerifyName = d.name
	}
	d.tls = tlstransport.Start(d.p.D, d.sock, ctx, params, func(s event.Stream, state tls.ConnectionState, err error) {
		d.tls = nil
		if d.ended {
			return
		}
		st := &d.cluster.Stats().SSL
		if err != nil {
			st.ConnectionError.Inc()
			d.finish(d.fail(tlsError(err)))
			return
		}
		st.Handshake.Inc()
		if state.DidResume {
			st.SessionReused.Inc()
		}
		d.established(s)
	})
}

func tlsError(err error) *proxyerr.Error {
	e := &proxyerr.Error{Flags: sf.UpstreamConnectionFailure, Kind: lb.TLSFailed, Unsent: true,
		Detail: proxyerr.ConnectionFailure, Cause: err}
	var t *tlstransport.Error
	if errors.As(err, &t) && t.Kind == tlstransport.KindConfig {
		e.Kind, e.Source = lb.OurFault, proxyerr.Local // a file that is missing here says nothing about the endpoint
	}
	return e
}

func (d *Dial) established(s event.Stream) {
	hp := d.p.host(d.Host())
	hp.open++
	counted := d.counted
	d.counted = false // the connection takes the place over
	d.end()
	c := &Conn{Stream: s, Sock: d.sock, Host: d.Host(), Cluster: d.cluster, pools: d.p, counted: counted,
		transport: d.cluster.Config().PoolKey, sni: d.name, client: d.client, made: d.p.D.Now()}
	d.p.serves(c)
	c.In.Init(d.p.Buffers)
	c.idleFor.Init(d.p.D, func() {
		c.Cluster.Stats().UpstreamCxIdleTimeout.Inc()
		c.Close()
	})
	st := d.cluster.Stats()
	st.UpstreamCxActive.Inc()
	st.UpstreamCxHTTP1Total.Inc()
	d.Host().Stats.CxActive.Inc()
	now := d.p.D.Now()
	if k := d.cluster.Config().Keepalive; k != nil {
		setKeepalive(d.sock.FD(), k)
	}
	d.res.Connected(now, false)
	if w := d.waiter; w != nil {
		d.waiter = nil
		w.Connected(d, c, d.res)
		return
	}
	d.res.Done(lb.Outcome{Now: now, Kind: lb.Cancelled})
	if !d.keep {
		c.Close()
		return
	}
	d.p.Put(c)
}

// Probe makes a connection to an endpoint only to see whether it answers: a request on a connection to it got no sign
// of life (guarantee E3). The outcome judges the endpoint. At most one at a time and, after an answer, one in 5 s.
func (p *Pools) Probe(c *cluster.Cluster, ep *lb.Endpoint) {
	hp := p.host(ep.Host)
	now := p.D.Now()
	if hp.probing || now.Sub(hp.lastProbe) < probeEvery && !ep.Suspect() {
		p.forget(ep.Host, hp)
		return
	}
	hp.probing, hp.lastProbe = true, now
	// One that left a ClientHello unanswered has to answer one before requests come back to it.
	plain := c.Config().TransportSocket == nil || !hp.deaf
	d := &Dial{p: p, cluster: c, res: c.Attempt(ep), name: hp.deafTo, began: now, probe: true, plain: plain,
		keep: !plain || c.Config().TransportSocket == nil}
	d.begin()
	if err := d.connect(); err != nil {
		d.fail(d.connectError(err, true))
		return
	}
	d.timer.Schedule(hedgeMin)
}

// judged keeps the mark of suspicion right after a failed attempt: an endpoint that refused has answered; one that stays
// silent and is not ejected is asked again now and then, since requests pass it over while another serves.
func (d *Dial) judged(kind lb.OutcomeKind) {
	p, c, ep := d.p, d.cluster, d.res.Endpoint
	deaf := kind == lb.TLSFailed && d.unheard
	if kind != lb.ConnectTimeout && !deaf || p.Compat {
		ep.SetSuspect(false)
		return
	}
	p.silent(c, ep, deaf, d.name)
}

// silent sees to it that an endpoint is asked again that did not answer, or, if it is deaf, did not answer the ClientHello
// for that name.
func (p *Pools) silent(c *cluster.Cluster, ep *lb.Endpoint, deaf bool, name string) {
	hp := p.host(ep.Host)
	if hp.deaf, hp.deafTo = deaf, name; !deaf {
		hp.deadAt = p.D.Now()
	}
	// At an original destination there is nobody else to ask, and nobody to ask for.
	if ep.Ejected() || c.Config().Type == cluster.OriginalDst {
		ep.SetSuspect(false)
	}
	if hp.again == nil {
		hp.again = new(event.Timer)
	}
	hp.again.Init(p.D, func() { p.askAgain(c, ep, hp) })
	hp.again.Schedule(askAgain)
}

// askAgain connects to an endpoint that was silent. Of one that needs no asking only its silence is remembered, for a while.
func (p *Pools) askAgain(c *cluster.Cluster, ep *lb.Endpoint, hp *hostPool) {
	if ep.Suspect() && !ep.Removed() {
		p.Probe(c, ep)
		return
	}
	if p.hosts[ep.Host] == hp {
		if p.forget(ep.Host, hp); p.hosts[ep.Host] == hp && p.D.Now().Sub(hp.deadAt) <= forgetDead {
			hp.again.Schedule(forgetDead)
		}
	}
}

// DeadSince says whether a connection attempt to the host that ended after t found it silent.
func (p *Pools) DeadSince(h *lb.Host, t time.Time) bool {
	hp := p.hosts[h]
	return hp != nil && hp.deadAt.After(t)
}
