// Package streaminfo owns the record of one request (or of one TCP connection): route, cluster, endpoint, attempts,
// response flags, timings. Filters and the router fill it in; the access log and run -v read it.
package streaminfo

import (
	"net/netip"
	"time"
)

// Protocol is the application protocol downstream.
type Protocol uint8

// Protocols; None is a connection of which only the bytes are known.
const (
	None Protocol = iota
	HTTP10
	HTTP11
	HTTP2
)

// String gives Envoy's spelling (%PROTOCOL%), empty for None.
func (p Protocol) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2"
	}
	return ""
}

// Info is one request, or one connection where nothing was decoded. Empty fields mean that a thing is unknown or never
// happened. Byte slices point into the connection's buffers: they may be read until the call that was given the Info
// returns, and must be copied to be kept. An Info may be used again after Reset.
type Info struct {
	Start    time.Time
	Duration time.Duration // from Start until the last byte downstream, or the end of the connection

	Method        []byte
	Path          []byte // as received
	Authority     []byte // the request's Host or :authority
	UserAgent     []byte
	ForwardedFor  []byte // X-Forwarded-For as received
	RequestID     []byte // X-Request-Id as received
	Protocol      Protocol
	BytesReceived uint64 // of bodies downstream; of the connection where nothing was decoded
	BytesSent     uint64

	Code        int    // final response code downstream, 0: none was sent
	CodeDetails string // one word of Envoy's, such as via_upstream
	Flags       Flags

	Route   string
	Cluster string

	UpstreamHost        netip.AddrPort // of the attempt that gave the answer, else of the last one
	UpstreamHostname    string         // that endpoint's name, where it has one
	UpstreamLocal       netip.AddrPort
	UpstreamServiceTime time.Duration // from the request's last byte upstream to the answer's head; 0: no answer
	UpstreamFailure     string        // why the last connection upstream failed (%UPSTREAM_TRANSPORT_FAILURE_REASON%)
	Priority            uint32        // of UpstreamHost
	Attempts            int           // connections or requests tried upstream

	DownstreamRemote    netip.AddrPort
	DownstreamLocal     netip.AddrPort
	OriginalDst         netip.AddrPort // where the application wanted to go, if the connection was redirected
	DownstreamPath      string         // of the Unix socket that the application connected to
	RequestedServerName []byte         // SNI
}

// Reset makes the Info ready for another request.
func (i *Info) Reset() { *i = Info{} }
