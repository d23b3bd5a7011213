package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
)

var answers = map[string]string{east: "10.1.0.1", west: "10.2.0.1"}

var refused = lb.Outcome{Kind: lb.ConnectFailed, Err: errors.New("connection refused")}

// want checks that n requests were answered by one endpoint alone.
func (r *rig) want(n int, hostname string) {
	r.t.Helper()
	if got := r.requests(mydb, n); got[hostname] != n {
		r.t.Errorf("%d requests: %v, want all by %s", n, got, hostname)
	}
}

func (r *rig) wantTable(want ...string) {
	r.t.Helper()
	if got := r.table(mydb); !slices.Equal(got, want) {
		r.t.Errorf("pc endpoints: %q, want %q", got, want)
	}
}

// step2 is the walkthrough's configuration for a caller in us-east1.
func (r *rig) step2(eastPort uint32) {
	r.t.Helper()
	r.update(strictDNSCluster(mydb, outlierDetection(), ep{east, eastPort, "us-east1", 0}, ep{west, 80, "us-west", 1}))
	synctest.Wait()
}

func inBubble(t *testing.T, f func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, answers)
		defer r.m.Close()
		f(r)
		synctest.Wait()
	})
}

func TestWalkthroughSteps1And6(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.update(strictDNSCluster(mydb, nil, ep{east, 80, "us-east1", 0}, ep{west, 80, "us-west", 0}))
		synctest.Wait()
		if got := r.requests(mydb, 100); got[east] < 25 || got[west] < 25 {
			t.Errorf("100 requests: %v, want both", got)
		}
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")
	})
}

func TestWalkthroughSteps2And3(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		r.want(20, east)
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")

		r.down["10.1.0.1:81"] = refused
		r.step2(81)
		if r.want(1, west); r.sent != 2 {
			t.Errorf("the first request took %d attempts, want 2", r.sent)
		}
		if r.want(5, west); r.sent != 1 {
			t.Errorf("a later request took %d attempts, want 1: the ejection was not there within Done", r.sent)
		}
		r.wantTable("10.1.0.1:81 HEALTHY FAILED", "10.2.0.1:80 HEALTHY OK")
		want := `level=WARN msg="endpoint ejected" cluster=outbound|80||mydb.com endpoint=10.1.0.1:81 ` +
			`name=dynamodb.us-east-1.amazonaws.com:81 locality=us-east1 reason="connection failure: connection refused" for=1m0s ` +
			`traffic="priority 1: dynamodb.us-west-1.amazonaws.com:80 (us-west)" crosses_region=true`
		if got := r.log.take(); len(got) != 1 || got[0] != want {
			t.Errorf("log %q, want %q", got, want)
		}

		r.step2(80) // 3b: another address, so well at once
		r.want(5, east)
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")

		r.step2(81) // and the ejection of the wrong port was not forgotten
		r.want(5, west)
		r.wantTable("10.1.0.1:81 HEALTHY FAILED", "10.2.0.1:80 HEALTHY OK")
	})
}

func TestWalkthroughStep3c(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		time.Sleep(7 * time.Second)
		r.down["10.1.0.1:80"] = refused
		r.want(3, west)
		delete(r.down, "10.1.0.1:80")
		r.log.take()
		time.Sleep(67 * time.Second) // to 74 s: baseEjectionTime is over, the sweep at 75 s is still to come
		synctest.Wait()
		r.want(5, west)
		r.wantTable("10.1.0.1:80 HEALTHY FAILED", "10.2.0.1:80 HEALTHY OK")
		time.Sleep(time.Second)
		synctest.Wait()
		r.want(5, east)
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")
		if got := r.log.take(); len(got) != 1 || !strings.Contains(got[0], `msg="endpoint is back"`) || !strings.Contains(got[0], "after=1m8s") {
			t.Errorf("log %q, want one line that it is back", got)
		}
	})
}

// Packets are dropped: the attempt counts as a failure 1.2 s after its SYN; until then the endpoint is suspect and others
// go elsewhere.
func TestWalkthroughStep3d(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		c := r.m.Get(mydb)
		res, err := c.Pick(&lb.PickInfo{Now: time.Now()})
		if err != nil || res.Endpoint.Hostname != east {
			t.Fatalf("picked %v, %v", res.Endpoint, err)
		}
		time.Sleep(300 * time.Millisecond)
		if !c.AnotherWell(res.Endpoint.Host, true) {
			t.Fatal("us-west is not seen as well")
		}
		res.Endpoint.SetSuspect(true)
		r.want(5, west)
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")
		time.Sleep(900 * time.Millisecond)
		res.Done(lb.Outcome{Now: time.Now(), Kind: lb.ConnectTimeout})
		r.wantTable("10.1.0.1:80 HEALTHY FAILED", "10.2.0.1:80 HEALTHY OK")
		r.want(5, west)
		time.Sleep(75 * time.Second)
		synctest.Wait()
		r.want(5, east)
	})
}

// Step 4b: whatever is wrong with the endpoint, the other region takes over; step 5 is the same with the priorities turned.
func TestWalkthroughSteps4bAnd5(t *testing.T) {
	for _, bad := range []lb.Outcome{refused, {Kind: lb.TLSFailed, Err: errors.New("certificate is for another name")},
		{Kind: lb.Response, Status: 503}, {Kind: lb.Reset}, {Kind: lb.ProtocolError}} {
		inBubble(t, func(r *rig) {
			r.update(strictDNSCluster(mydb, outlierDetection(), ep{west, 443, "us-west", 0}, ep{east, 443, "us-east1", 1}))
			synctest.Wait()
			r.want(5, west)
			r.down["10.2.0.1:443"] = bad
			r.want(5, east)
			if r.table(mydb)[0] != "10.2.0.1:443 HEALTHY FAILED" {
				t.Errorf("%v: %q", bad.Kind, r.table(mydb))
			}
		})
	}
}

// Both regions down, or this machine's network: nothing stays ejected, one line says so, and each comes back alone.
func TestBothDown(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		r.down["10.1.0.1:80"], r.down["10.2.0.1:80"] = refused, refused
		for range 30 {
			if got := r.request(mydb); got != lb.ErrAllTried.Error() {
				t.Fatalf("answered by %s", got)
			}
			time.Sleep(20 * time.Second)
		}
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")
		// 10 minutes: one line that us-east-1 is ejected, then one a minute that the fault is here.
		lines := r.log.take()
		if len(lines) != 11 || !strings.Contains(lines[0], "endpoint ejected") ||
			!strings.Contains(lines[1], "the fault is probably on this side") {
			t.Errorf("%d lines: %q", len(lines), lines)
		}
		delete(r.down, "10.2.0.1:80")
		r.want(5, west)
		if r.sent != 1 {
			t.Errorf("us-east-1 is still tried first (%d attempts) though us-west serves", r.sent)
		}
	})
}

// Faults of this machine judge nobody.
func TestOurFault(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		r.down["10.1.0.1:80"] = lb.Outcome{Kind: lb.OurFault, Err: errors.New("network is unreachable")}
		r.want(20, west)
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")
		if got := r.log.take(); len(got) != 1 || !strings.Contains(got[0], "network is unreachable") {
			t.Errorf("log %q, want one line", got)
		}
		if n := r.m.Get(mydb).Stats().Detour.LocalFault.Value(); n != 20 {
			t.Errorf("local_fault %d, want 20", n)
		}
	})
}
