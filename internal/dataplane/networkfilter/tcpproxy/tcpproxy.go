// Package tcpproxy relays connections that are not decoded: TCP ports, TLS that the application opens itself, and
// destinations that nothing declares. Until the endpoint's first byte it can still go elsewhere; afterwards nothing moves
// (DESIGN.md, "What traffic is taken for").
package tcpproxy

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"time"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/relay"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
	"detour.dev/detour/internal/stats"
)

// Times for a ClientHello that was given to an endpoint.
const (
	helloUnacked = 300 * time.Millisecond // the endpoint's kernel has not acknowledged it
	helloSilent  = 2 * time.Second        // the endpoint has not answered it
	helloLook    = 50 * time.Millisecond
)

// Options of one proxied connection.
type Options struct {
	D       *event.Dispatcher
	Buffers *buffer.Pool
	Pools   *upstream.Pools
	Cluster *cluster.Cluster
	Pick    lb.PickInfo
	Stats   *stats.TCP
	// Hello says that the first bytes are a whole ClientHello without early data: they may be given to another endpoint
	// until one answers.
	Hello bool
	// Greeting goes to the client before anything else, once an endpoint is connected (the answer to CONNECT).
	Greeting string
	// Refusal goes to the client instead when no endpoint can be reached; empty: a reset.
	Refusal string
	// Once allows one endpoint only (the route has retries off, or the destination is a plain address).
	Once bool
	Idle time.Duration
	// MaxTime ends the connection that long after it began; 0: never.
	MaxTime time.Duration
	Info    *streaminfo.Info
	// Done is told at the end of the connection.
	Done func(*Proxy)
	// HungUp is told when the client ended a TLS connection and probably sent nothing but the handshake.
	HungUp func(h *lb.Endpoint, sni string)
}

// Proxy is one connection.
type Proxy struct {
	Options
	down  event.Stream
	early []byte
	tried [8]*lb.Host
	race  upstream.Race
	conn  *upstream.Conn
	res   lb.Result
	relay *relay.Relay
	timer event.Timer
	limit event.Timer // MaxTime
	sent  int         // of early, to the current endpoint
	at    time.Time
	ended bool
	last  *proxyerr.Error
	alert []byte // what the last endpoint refused the ClientHello with
}

// Start proxies a client's connection. early is what was read of it already.
func Start(down event.Stream, early []byte, o Options) *Proxy {
	p := &Proxy{Options: o, down: down, early: early}
	p.timer.Init(o.D, p.onTimer)
	p.limit.Init(o.D, func() {
		p.Stats.MaxDuration.Inc()
		p.Close()
	})
	if o.MaxTime > 0 {
		p.limit.Schedule(o.MaxTime)
	}
	p.Pick.Tried = p.tried[:0]
	p.race.Begin(p.Pools, p.Cluster, &p.Pick, "", false, !p.Once, p)
	p.Stats.DownstreamCxTotal.Inc()
	down.SetHandler(p)
	p.next()
	if !p.ended {
		down.Again()
	}
	return p
}

// OnEvent hears of the client while there is no relay yet: only its going away matters.
func (p *Proxy) OnEvent(readable, _ bool) {
	// Nothing is read before the endpoint has answered: what the client sends on top of its first bytes stays in the
	// kernel. A client that has sent its ClientHello and then ended its direction, or was reset, waits for nothing.
	if down, ok := p.down.(interface{ PeerClosed() bool }); readable && p.Hello && ok && down.PeerClosed() {
		p.Close()
	}
}

// next tries endpoints until an attempt is under way.
func (p *Proxy) next() {
	for {
		p.Pick.Now = p.D.Now()
		if (p.Once || p.Pools.Compat) && len(p.Pick.Tried) > 0 { // an Envoy's max_connect_attempts is 1
			p.fail()
			return
		}
		res, err := p.Cluster.Pick(&p.Pick)
		if err != nil {
			if p.last == nil {
				p.Info.Flags |= streaminfo.NoHealthyUpstream
			}
			p.fail()
			return
		}
		switch p.last = p.race.Try(res, true); p.last {
		case nil:
			return
		case upstream.NoRoom: // no endpoint of the cluster has any
			p.fail()
			return
		}
	}
}

// Trying implements upstream.Racer.
func (p *Proxy) Trying(e *lb.Endpoint) {
	p.Info.Attempts++
	p.to(e)
}

// to records where the connection is going.
func (p *Proxy) to(e *lb.Endpoint) {
	p.Info.UpstreamHost, p.Info.UpstreamHostname, p.Info.Priority = e.Target(), e.Hostname, e.Priority
}

// Won implements upstream.Racer.
func (p *Proxy) Won(c *upstream.Conn, res lb.Result) {
	p.timer.Stop()
	p.conn, p.res, p.sent = c, res, 0
	p.to(res.Endpoint)
	c.Begin()
	if !p.Hello {
		p.res.Connected(p.D.Now(), true)
		p.startRelay(p.early, nil)
		return
	}
	p.at = p.D.Now()
	c.Stream.SetHandler((*endpoint)(p))
	if p.sendHello() {
		p.timer.Schedule(helloLook)
		c.Stream.Again()
	}
}

// Lost implements upstream.Racer.
func (p *Proxy) Lost(err *proxyerr.Error) {
	p.last = err
	p.Info.UpstreamFailure = err.Error()
	p.next()
}

// sendHello writes the ClientHello. It says whether the attempt goes on.
func (p *Proxy) sendHello() bool {
	for p.sent < len(p.early) {
		n, err := p.conn.Stream.Write(p.early[p.sent:])
		if err == event.ErrAgain {
			return true
		}
		if err != nil {
			p.failHello(lb.Reset, err)
			return false
		}
		p.sent += n
	}
	return true
}

// endpoint is the handler of the endpoint's connection between ClientHello and first byte.
type endpoint Proxy

// OnEvent implements event.Handler.
func (e *endpoint) OnEvent(readable, writable bool) {
	p := (*Proxy)(e)
	if writable && !p.sendHello() {
		return
	}
	if readable {
		p.readFirst()
	}
}

// readFirst takes the endpoint's first bytes, which decide: a fatal alert is a refusal, anything else is an answer.
func (p *Proxy) readFirst() {
	win := &p.conn.In
	for first := win.B[:win.Fill]; len(first) == 0 || first[0] == recordAlert && len(first) < alertLen; first = win.B[:win.Fill] {
		n, err := p.conn.Stream.Read(win.Room())
		switch {
		case err == event.ErrAgain:
			return
		case err == io.EOF:
			p.failHello(lb.Reset, errors.New("closed after the ClientHello"))
			return
		case err != nil:
			p.failHello(lb.Reset, err)
			return
		}
		win.Fill += n
	}
	first := win.B[:win.Fill]
	if first[0] == recordAlert && first[5] == alertFatal {
		p.alert = bytes.Clone(first)
		p.failHello(lb.TLSFailed, alertError(first[6]))
		return
	}
	p.timer.Stop()
	p.res.Connected(p.D.Now(), true)
	p.startRelay(nil, first)
	win.Release()
}

// onTimer asks whether the ClientHello is getting anywhere.
func (p *Proxy) onTimer() {
	if p.conn == nil || p.relay != nil {
		return
	}
	age := p.D.Now().Sub(p.at)
	if p.Pools.Compat || p.Once || !p.Cluster.AnotherWell(p.conn.Host, p.Cluster.Config().HasOutlierDetection, p.Pick.Tried...) {
		p.timer.Schedule(helloUnacked)
		return
	}
	switch acked := p.conn.Acked(); {
	case age >= helloSilent, age >= helloUnacked && (acked == upstream.AckNone || acked == upstream.AckSome):
		p.failHello(lb.Timeout, errors.New("no answer to the ClientHello"))
	default:
		p.timer.Schedule(helloLook)
	}
}

// failHello judges the endpoint and gives the ClientHello to another.
func (p *Proxy) failHello(kind lb.OutcomeKind, err error) {
	p.timer.Stop()
	p.Info.UpstreamFailure = err.Error()
	p.last = &proxyerr.Error{Flags: streaminfo.UpstreamConnectionTermination, Kind: kind, Unsent: true,
		Detail: proxyerr.ConnectionTermination, Cause: err}
	c, res := p.conn, p.res
	p.conn, p.res = nil, lb.Result{}
	if kind != lb.TLSFailed {
		p.alert = nil
	}
	res.Done(lb.Outcome{Now: p.D.Now(), Kind: kind, Err: err})
	c.Abort()
	p.Cluster.Stats().Detour.ClientHelloNew.Inc()
	p.next()
}

// startRelay begins to move bytes both ways.
func (p *Proxy) startRelay(toB, toA []byte) {
	if p.Greeting != "" {
		toA = append([]byte(p.Greeting), toA...)
	}
	p.relay = relay.Start(p.down, p.conn.Stream, relay.Options{Dispatcher: p.D, Pool: p.Buffers, Idle: p.Idle,
		ToA: toA, ToB: toB, Done: p.relayed})
	p.early = nil
}

// givingUp is the most that a client sends behind its ClientHello when it refuses the certificate: an alert at once, or, as
// curl does with OpenSSL, the rest of its handshake, which is encrypted in TLS 1.3, and close_notify (TLS 1.3 up to 104
// bytes, TLS 1.2 up to 127). A request of a few bytes can look the same, so HungUp is a suspicion.
const givingUp = 128

// Alert records (RFC 8446 §5.1, §6).
const (
	recordAlert = 21
	alertLen    = 7
	alertFatal  = 2
)

func (p *Proxy) relayed(err error) {
	up, down := &p.relay.Up, &p.relay.Down
	p.Stats.DownstreamCxRxBytes.Add(up.Bytes)
	p.Stats.DownstreamCxTxBytes.Add(down.Bytes)
	p.Info.BytesReceived, p.Info.BytesSent = up.Bytes, down.Bytes
	if errors.Is(err, relay.ErrIdle) {
		p.Stats.IdleTimeout.Inc()
	}
	if p.Hello && p.HungUp != nil && up.After < givingUp {
		p.HungUp(p.res.Endpoint, string(p.Info.RequestedServerName))
	}
	p.res.Done(lb.Outcome{Now: p.D.Now(), Kind: lb.Cancelled})
	p.conn.Close()
	p.finish()
}

// fail ends the connection without an endpoint.
func (p *Proxy) fail() {
	if p.last != nil {
		p.Info.Flags |= p.last.Flags
	}
	switch {
	case p.alert != nil: // nobody took the ClientHello: the client learns why
		_, _ = p.down.Write(p.alert)
		p.down.Close()
	case p.Refusal != "":
		_, _ = p.down.Write([]byte(p.Refusal))
		p.down.Close()
	default:
		p.down.Abort()
	}
	p.finish()
}

// Close ends the connection from outside.
func (p *Proxy) Close() {
	if p.ended {
		return
	}
	if p.relay != nil {
		p.relay.Close()
		return
	}
	p.race.Abandon()
	if p.conn != nil {
		p.res.Done(lb.Outcome{Now: p.D.Now(), Kind: lb.Cancelled})
		p.conn.Abort()
	}
	p.down.Abort()
	p.finish()
}

func (p *Proxy) finish() {
	if p.ended {
		return
	}
	p.ended = true
	p.timer.Stop()
	p.limit.Stop()
	p.Info.Duration = p.D.Now().Sub(p.Info.Start)
	p.Done(p)
}

type alertError byte

func (a alertError) Error() string { return "fatal TLS alert " + alertName(byte(a)) }

// alertName names the alerts that a server answers a ClientHello with (RFC 8446 §6).
func alertName(a byte) string {
	switch a {
	case 40:
		return "handshake_failure"
	case 47:
		return "illegal_parameter"
	case 70:
		return "protocol_version"
	case 71:
		return "insufficient_security"
	case 80:
		return "internal_error"
	case 112:
		return "unrecognized_name"
	case 120:
		return "no_application_protocol"
	}
	return strconv.Itoa(int(a))
}
