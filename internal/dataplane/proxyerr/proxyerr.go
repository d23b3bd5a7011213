// Package proxyerr owns the one error that the data plane knows (DESIGN.md, rule 5): what went wrong in Envoy's response
// flags, who caused it, and the status and body that the client gets for it.
package proxyerr

import (
	"errors"
	"strings"
	"syscall"

	"detour.dev/detour/internal/dataplane/lb"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
)

// Source says whose fault it was.
type Source uint8

// Sources.
const (
	Upstream Source = iota
	Downstream
	Local  // this host: no network, no descriptors (guarantee E4)
	Config // no route, no cluster, an object that was refused
)

// Error is how a request, or an attempt at one, failed.
type Error struct {
	Flags  sf.Flags
	Source Source
	// Kind is what outlier detection is told.
	Kind lb.OutcomeKind
	// Unsent says that nothing of the request can have been processed, so that it may be sent elsewhere whatever its
	// method (guarantee E2).
	Unsent bool
	// Detail is the reset reason in Envoy's words.
	Detail string
	Cause  error
	// Reply replaces the mapped status and body where the configuration decided them.
	Reply *Reply
}

// Reply is an answer of the proxy's own.
type Reply struct {
	Status int
	Body   string
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Detail + ": " + e.Cause.Error()
	}
	return e.Detail
}

func (e *Error) Unwrap() error { return e.Cause }

// Response maps the error to what the client gets. Bodies are Envoy's (Http::Utility, router.cc).
func (e *Error) Response() Reply {
	switch {
	case e.Reply != nil:
		return *e.Reply
	case e.Flags.Has(sf.NoRouteFound):
		return Reply{Status: 404}
	case e.Flags.Has(sf.NoClusterFound):
		return Reply{Status: 503}
	case e.Flags.Has(sf.NoHealthyUpstream):
		return Reply{503, "no healthy upstream"}
	case e.Flags.Has(sf.UpstreamRequestTimeout):
		return Reply{504, "upstream request timeout"}
	case e.Flags.Has(sf.StreamIdleTimeout):
		return Reply{504, "stream timeout"}
	case e.Flags.Has(sf.UpstreamProtocolError):
		return Reply{502, "upstream connect error or disconnect/reset before headers. reset reason: protocol error"}
	case e.Flags.Has(sf.UpstreamOverflow):
		return Reply{503, "upstream connect error or disconnect/reset before headers. reset reason: overflow"}
	case e.Flags.Has(sf.DownstreamProtocolError):
		return Reply{Status: 400, Body: "Bad Request"}
	}
	return Reply{503, "upstream connect error or disconnect/reset before headers. reset reason: " + e.Detail}
}

// EnvoyResponse is Response in the words of Envoy 1.40, which tells whose connection failed and whether it was the first
// attempt (router.cc, Filter::onUpstreamAbort). Response keeps to the walkthrough's words.
func (e *Error) EnvoyResponse(retried bool) Reply {
	r := e.Response()
	const before = "reset reason: "
	if head, found := strings.CutSuffix(r.Body, before+ConnectionFailure); found {
		r.Body = head + before + "remote " + ConnectionFailure
	}
	if retried {
		r.Body = strings.Replace(r.Body, ". "+before, ". retried and the latest "+before, 1)
	}
	return r
}

// Envoy's reset reasons, which clients see.
const (
	ConnectionFailure     = "connection failure"
	ConnectionTimeout     = "connection timeout"
	ConnectionTermination = "connection termination"
)

// Connect classifies an error of making a connection. atOnce says that connect(2) itself refused, without a packet from
// anybody: then the fault is this host's (no route, no network, no port, no descriptor), and judges no endpoint.
func Connect(err error, atOnce bool) *Error {
	e := &Error{Flags: sf.UpstreamConnectionFailure, Kind: lb.ConnectFailed, Unsent: true, Detail: ConnectionFailure, Cause: err}
	switch {
	case errors.Is(err, syscall.ETIMEDOUT):
		e.Kind, e.Detail = lb.ConnectTimeout, ConnectionTimeout
	case atOnce && localErrno(err):
		e.Kind, e.Source = lb.OurFault, Local
	}
	return e
}

func localErrno(err error) bool {
	for _, n := range [...]error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EMFILE,
		syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAFNOSUPPORT, syscall.EACCES, syscall.EPERM, syscall.EINVAL} {
		if errors.Is(err, n) {
			return true
		}
	}
	return false
}
