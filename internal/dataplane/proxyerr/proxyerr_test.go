package proxyerr

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"detour.dev/detour/internal/dataplane/lb"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
)

func TestResponse(t *testing.T) {
	const before = "upstream connect error or disconnect/reset before headers. reset reason: "
	for _, c := range []struct {
		err  Error
		want Reply
	}{
		{Error{Flags: sf.NoRouteFound}, Reply{404, ""}},
		{Error{Flags: sf.NoClusterFound}, Reply{503, ""}},
		{Error{Flags: sf.NoHealthyUpstream}, Reply{503, "no healthy upstream"}},
		{Error{Flags: sf.UpstreamRequestTimeout}, Reply{504, "upstream request timeout"}},
		{Error{Flags: sf.UpstreamRequestTimeout | sf.UpstreamConnectionTermination}, Reply{504, "upstream request timeout"}},
		{Error{Flags: sf.StreamIdleTimeout}, Reply{504, "stream timeout"}},
		{Error{Flags: sf.UpstreamProtocolError}, Reply{502, before + "protocol error"}},
		{Error{Flags: sf.UpstreamOverflow}, Reply{503, before + "overflow"}},
		{Error{Flags: sf.DownstreamProtocolError}, Reply{400, "Bad Request"}},
		{Error{Flags: sf.UpstreamConnectionFailure, Detail: ConnectionTimeout}, Reply{503, before + "connection timeout"}},
		{Error{Flags: sf.NoRouteFound, Reply: &Reply{418, "own"}}, Reply{418, "own"}},
	} {
		if got := c.err.Response(); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.err.Flags, got, c.want)
		}
	}
}

// TestEnvoyResponse: an Envoy of today says whose connection it was that failed.
func TestEnvoyResponse(t *testing.T) {
	const before = "upstream connect error or disconnect/reset before headers. "
	for _, c := range []struct {
		err     *Error
		retried bool
		want    string
	}{
		{Connect(syscall.ECONNREFUSED, false), false, before + "reset reason: remote connection failure"},
		{Connect(syscall.ECONNREFUSED, false), true, before + "retried and the latest reset reason: remote connection failure"},
		{Connect(syscall.ETIMEDOUT, false), false, before + "reset reason: connection timeout"},
		{&Error{Flags: sf.NoHealthyUpstream}, true, "no healthy upstream"},
	} {
		if got := c.err.EnvoyResponse(c.retried); got.Body != c.want {
			t.Errorf("%v: %q, want %q", c.err, got.Body, c.want)
		}
	}
}

// TestConnect: what connect(2) refuses at once is this host's fault; the same word from a router judges the endpoint (E4).
func TestConnect(t *testing.T) {
	for _, c := range []struct {
		errno  error
		atOnce bool
		kind   lb.OutcomeKind
		source Source
	}{
		{syscall.ECONNREFUSED, false, lb.ConnectFailed, Upstream},
		{syscall.ECONNREFUSED, true, lb.ConnectFailed, Upstream}, // loopback answers within the call
		{syscall.ETIMEDOUT, false, lb.ConnectTimeout, Upstream},
		{syscall.EHOSTUNREACH, false, lb.ConnectFailed, Upstream},
		{syscall.EHOSTUNREACH, true, lb.OurFault, Local},
		{syscall.ENETUNREACH, true, lb.OurFault, Local},
		{syscall.EADDRNOTAVAIL, true, lb.OurFault, Local},
		{syscall.EMFILE, true, lb.OurFault, Local},
		{errors.New("unknown"), true, lb.ConnectFailed, Upstream},
	} {
		e := Connect(fmt.Errorf("connect: %w", c.errno), c.atOnce)
		if e.Kind != c.kind || e.Source != c.source || !e.Unsent || !errors.Is(e, c.errno) {
			t.Errorf("%v, at once %v: %v from %d", c.errno, c.atOnce, e.Kind, e.Source)
		}
	}
}
