package router

import (
	"testing"

	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	sf "detour.dev/detour/internal/dataplane/streaminfo"
)

var (
	refused  = &proxyerr.Error{Flags: sf.UpstreamConnectionFailure, Kind: lb.ConnectFailed, Unsent: true}
	stale    = &proxyerr.Error{Flags: sf.UpstreamConnectionTermination, Kind: lb.Cancelled, Unsent: true}
	reset    = &proxyerr.Error{Flags: sf.UpstreamConnectionTermination, Kind: lb.Reset}
	protocol = &proxyerr.Error{Flags: sf.UpstreamProtocolError, Kind: lb.ProtocolError}
	late     = &proxyerr.Error{Flags: sf.UpstreamRequestTimeout, Kind: lb.Timeout}
)

func TestDecide(t *testing.T) {
	none, byDefault := &route.Retry{}, &route.Retry{Mode: route.RetryDefault}
	own := func(on route.RetryOn) *route.Retry {
		return &route.Retry{Mode: route.RetryExplicit, On: on, NumRetries: 1}
	}
	for _, c := range []struct {
		name string
		s    situation
		want decision
	}{
		{"unsent", situation{concerned: true, policy: byDefault, replayable: true, err: refused}, elsewhere},
		{"unsent, though all resends are used", situation{concerned: true, policy: byDefault, replayable: true, resends: 9, err: refused}, elsewhere},
		{"unsent, attempts 0", situation{concerned: true, policy: none, replayable: true, err: refused}, giveUp},
		{"unsent, own policy that does not name it", situation{concerned: true, policy: own(route.On5xx), replayable: true, err: stale}, elsewhere},
		{"unsent, nobody left", situation{concerned: true, policy: byDefault, replayable: true, idempotent: true, exhausted: true, err: refused}, giveUp},
		{"unsent, nobody left, own policy", situation{concerned: true, policy: own(route.OnConnectFailure), replayable: true, exhausted: true, err: refused}, again},
		{"unsent, compat", situation{concerned: true, policy: byDefault, compat: true, replayable: true, err: refused}, giveUp},
		{"unsent, compat, own policy", situation{concerned: true, policy: own(route.OnConnectFailure), compat: true, replayable: true, err: refused}, again},
		{"unsent, but not whole any more", situation{concerned: true, policy: byDefault, err: stale}, giveUp},
		{"reset, idempotent", situation{concerned: true, policy: byDefault, replayable: true, idempotent: true, err: reset}, again},
		{"reset, POST", situation{concerned: true, policy: byDefault, replayable: true, err: reset}, giveUp},
		{"reset, used up", situation{concerned: true, policy: byDefault, replayable: true, idempotent: true, resends: maxResends, err: reset}, giveUp},
		{"reset, own policy, POST", situation{concerned: true, policy: own(route.OnReset), replayable: true, err: reset}, again},
		{"reset, own policy, used up", situation{concerned: true, policy: own(route.OnReset), replayable: true, resends: 1, err: reset}, limitReached},
		{"reset, own policy of another kind", situation{concerned: true, policy: own(route.OnConnectFailure), replayable: true, idempotent: true, err: reset}, giveUp},
		{"reset after the response began", situation{concerned: true, policy: own(route.OnReset), responded: true, replayable: true, idempotent: true, err: reset}, giveUp},
		{"unsent after the response began", situation{concerned: true, policy: byDefault, responded: true, replayable: true, err: stale}, giveUp},
		{"protocol error", situation{concerned: true, policy: byDefault, replayable: true, idempotent: true, err: protocol}, giveUp},
		{"late", situation{concerned: true, policy: byDefault, replayable: true, idempotent: true, err: late}, giveUp},
		{"late, own policy", situation{concerned: true, policy: own(route.OnTimeout), replayable: true, err: late}, again},
	} {
		if got := decide(c.s); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestNeverTwice: whatever else holds, a request that was sent and is not idempotent is not sent again unless its route asks.
func TestNeverTwice(t *testing.T) {
	for _, err := range []*proxyerr.Error{reset, protocol, late} {
		for bits := range 8 {
			s := situation{concerned: true, policy: &route.Retry{Mode: route.RetryDefault}, replayable: bits&1 != 0, exhausted: bits&2 != 0, responded: bits&4 != 0, err: err}
			if d := decide(s); d != giveUp {
				t.Errorf("%+v: %d", s, d)
			}
			for status := 500; status < 600; status++ {
				if d := decideAnswer(s, answer{status: status, head: &http1.Head{Status: status}, complete: true, outlier: true}); d != giveUp {
					t.Errorf("%+v: %d after %d", s, d, status)
				}
			}
		}
	}
}
