//go:build linux

package feature

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// cluster443 is step 7's cluster.
const cluster443 = "outbound|443||mydb.com"

// step7 is a host that the application speaks TLS to by itself.
const step7 = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: external-svc-dns
spec:
  hosts:
  - mydb.com
  location: MESH_EXTERNAL
  ports:
  - number: 443
    name: tls
    protocol: TLS
  resolution: DNS
  endpoints:
  - address: dynamodb.us-east-1.amazonaws.com
    locality: us-east1
  - address: dynamodb.us-west-1.amazonaws.com
    locality: us-west
`

// step7World has both servers carry the application's name beside their own.
func step7World(t *testing.T) *world {
	t.Parallel()
	w := newWorld(t)
	w.east.https(443, w.pair(eastName, service1))
	w.west.https(443, w.pair(westName, service1))
	w.write(entryFile, step7)
	w.write(ruleFile, w.walkthrough(step2, quick...))
	return w
}

// curl runs curl and gives its exit status, output and errors.
func (w *world) curl(args ...string) (status int, out, errs string) {
	w.t.Helper()
	p := w.start(exec.Command("curl", append([]string{"-sS", "--max-time", "10"}, args...)...))
	status = p.wait()
	return status, p.out(), p.err()
}

// ways are how an application reaches detour with TLS.
var ways = map[string]func(w *world, p *proxy) []string{
	"CONNECT": func(w *world, p *proxy) []string {
		return []string{"--proxy", "http://" + forwardAddr, "--cacert", w.caFile()}
	},
	"captured": func(w *world, p *proxy) []string {
		w.captureOnce()
		return []string{"--resolve", "mydb.com:443:" + p.lookup(service1).String(), "--cacert", w.caFile()}
	},
}

// TestWalkthroughStep7 relays the application's own TLS, and moves to the far region as long as nothing came back.
func TestWalkthroughStep7(t *testing.T) {
	troubles := map[string]func(w *world){
		"port closed":             func(w *world) { w.east.ports[443].stop() },
		"requests lost":           func(w *world) { w.east.loseRequests() },
		"answers lost":            func(w *world) { w.east.loseAnswers() },
		"reset after ClientHello": func(w *world) { w.east.ports[443].behave(behaviour{Hello: "reset"}) },
		"closed after it":         func(w *world) { w.east.ports[443].behave(behaviour{Hello: "close"}) },
		"no answer":               func(w *world) { w.east.ports[443].behave(behaviour{Hello: "hold"}) },
		"fatal alert":             func(w *world) { w.east.ports[443].behave(behaviour{Hello: "alert"}) },
	}
	for way, flags := range ways {
		for trouble, do := range troubles {
			t.Run(way+" "+trouble, func(t *testing.T) {
				w := step7World(t)
				p := w.proxyIn("us-east1")
				get := func(want string) {
					t.Helper()
					if status, out, errs := w.curl(append(flags(w, p), "https://mydb.com/")...); status != 0 || out != want {
						t.Fatalf("curl: status %d, %q %s; want %q", status, out, errs, want)
					}
				}
				get(fromEast)
				// An endpoint's FIN that is lost with the answers would leave the relay half closed for as long as TCP allows.
				await(t, "the first connection is over", func() bool { return p.stat("cluster."+cluster443+".upstream_rq_active") == 0 })
				do(w)
				begin := time.Now()
				get(fromWest)
				if took := time.Since(begin); strings.Contains(trouble, "lost") && took > 3*time.Second {
					t.Errorf("curl took %v", took)
				}
				get(fromWest)
				await(t, "us-east-1 is ejected", func() bool { return p.ejected(cluster443, w.east, 443) })
				w.undecrypted(t)
			})
		}
	}
}

// undecrypted wants what the application said, and nothing else.
func (w *world) undecrypted(t testing.TB) {
	t.Helper()
	for _, d := range w.deliveries() {
		if d.Host != service1 || d.SNI != service1 {
			t.Errorf("%s received Host %q, SNI %q", d.Site, d.Host, d.SNI)
		}
	}
}

// TestWalkthroughStep7b has a far endpoint take over that can't prove the application's name.
func TestWalkthroughStep7b(t *testing.T) {
	for way, flags := range ways {
		t.Run(way, func(t *testing.T) {
			w := step7World(t)
			w.west.ports[443].behave(behaviour{Cert: w.pair(westName)})
			w.east.ports[443].stop()
			p := w.proxyIn("us-east1")
			status, out, errs := w.curl(append(flags(w, p), "https://mydb.com/")...)
			if status != 60 {
				t.Fatalf("curl: status %d, %q %s; want 60, its own certificate error", status, out, errs)
			}
			said := func() int { return p.logged("hung up in the TLS handshake", "mydb.com", westName) }
			await(t, "the log says who took over, with what certificate", func() bool { return said() > 0 })
			if n := said(); n != 1 {
				t.Errorf("said %d times", n)
			}
		})
	}
}
