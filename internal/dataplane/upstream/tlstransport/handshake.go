package tlstransport

import (
	"crypto/tls"
	"errors"

	"detour.dev/detour/internal/dataplane/event"
)

var errNotReading = errors.New("peer requests key updates without reading")

// Params says for which endpoint and name one handshake is.
type Params struct {
	// Hostname is the chosen endpoint's name (Envoy's Endpoint.hostname, or the name a DNS cluster resolved).
	Hostname string
	// ServerName is the SNI that the request's Host asks for (HttpProtocolOptions' auto_sni), empty otherwise. It
	// wins over UpstreamTlsContext's auto_host_sni and sni.
	ServerName string
	// VerifyName is the name the certificate must carry for the request's Host (HttpProtocolOptions'
	// auto_san_validation), empty otherwise. It replaces the context's subject alternative names.
	VerifyName string
	// EndpointKey keeps the sessions of endpoints apart: the endpoint's address.
	EndpointKey string
	// ALPN replaces the context's alpn_protocols where set.
	ALPN []string
}

// Handshake is a client handshake under way. It is the socket's handler meanwhile.
type Handshake struct {
	c    *conn
	done func(s event.Stream, state tls.ConnectionState, err error)
	over bool
}

// Start begins the handshake on a connected socket, which belongs to it from here on. done is called on the loop,
// once, never from within Start: with the stream (a *Stream, on which SetHandler is to be called), or with an *Error
// when the socket has been closed. There is no timeout: Cancel from a timer.
func Start(d *event.Dispatcher, sock *event.Socket, ctx *Context, p Params, done func(s event.Stream, state tls.ConnectionState, err error)) *Handshake {
	h := &Handshake{c: newConn(d, sock), done: done}
	h.c.pump = func() {
		if !h.over {
			h.c.exchange()
		}
	}
	sock.SetHandler(h)
	sock.Again()
	go h.run(ctx, p)
	d.Yield()
	return h
}

// Cancel ends the handshake: the socket is closed and done is never called. After done it does nothing.
func (h *Handshake) Cancel() {
	if h.over {
		return
	}
	h.over = true
	h.c.shut()
	h.c.sock.Close()
}

// OnEvent implements event.Handler.
func (h *Handshake) OnEvent(_, _ bool) { h.c.exchange() }

// run is the goroutine. It ends with the handshake, with Cancel, or with the dispatcher.
func (h *Handshake) run(ctx *Context, p Params) {
	config, err := ctx.config(p)
	if err != nil {
		h.c.d.Post(func() { h.finish(nil, err) })
		return
	}
	tc := tls.Client(h.c, config)
	err = tc.Handshake()
	h.c.d.Post(func() { h.finish(tc, err) })
}

// finish runs on the loop, after the goroutine's last use of the connection.
func (h *Handshake) finish(tc *tls.Conn, err error) {
	if h.over {
		return
	}
	h.over = true
	h.c.direct = true
	var state tls.ConnectionState
	if tc != nil {
		state = tc.ConnectionState()
	}
	if err != nil {
		h.c.flush() // an alert
		h.c.drop()
		h.c.sock.Close()
		h.done(nil, state, classify(err))
		return
	}
	h.c.held = h.c.pending() <= maxHeld
	s := &Stream{c: h.c, tc: tc, more: true}
	h.c.sock.SetHandler(s)
	h.c.sock.Again()
	h.done(s, state, nil)
}
