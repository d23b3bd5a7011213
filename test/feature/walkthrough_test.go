//go:build linux

package feature

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

// The walkthrough's files.
const (
	step1      = "1-service-entry.yaml"
	step2      = "2-destination-rule.yaml"
	step3      = "3-service-entry-us-east-down.yaml"
	httpsEntry = "4-https-service-entry.yaml"
	httpsRule  = "4-https-destination-rule.yaml"
)

// Names of the files in the configuration directory: a step replaces what an earlier one said.
const (
	entryFile = "service-entry.yaml"
	ruleFile  = "destination-rule.yaml"
	routeFile = "virtual-service.yaml"
)

// noRetries shows the first failure to the client.
const noRetries = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: mydb-no-retries
spec:
  hosts:
  - mydb.com
  http:
  - route:
    - destination:
        host: mydb.com
    retries:
      attempts: 0
`

// walking makes a world as in step 2, with other values in the rule (old, new), and its proxy.
func walking(t *testing.T, oldnew ...string) (*world, *proxy) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2, oldnew...))
	return w, w.proxyIn("us-east1")
}

// regions makes a world in which both of the walkthrough's endpoints serve HTTP.
func regions(t *testing.T) *world {
	t.Parallel()
	w := newWorld(t)
	w.east.http(80)
	w.west.http(80)
	return w
}

// all wants every answer to be the same.
func all(t testing.TB, want string, rs []result) {
	t.Helper()
	for i, r := range rs {
		if r.String() != want {
			t.Fatalf("request %d of %d: %q, want %q; all: %v", i+1, len(rs), r, want, bodies(rs))
		}
	}
}

// both wants each of the two answers, and no other.
func both(t testing.TB, rs []result) {
	t.Helper()
	m := bodies(rs)
	if len(m) != 2 || m[fromEast] == 0 || m[fromWest] == 0 {
		t.Fatalf("answers: %v, want both endpoints", m)
	}
}

// table wants the lines of `pc endpoints` with mydb, in the walkthrough's order; the runs of blanks are the table's own.
func (p *proxy) table(lines ...string) {
	p.t.Helper()
	blanks := regexp.MustCompile(`\s+`)
	var last string
	defer func() {
		if p.t.Failed() {
			p.t.Logf("pc endpoints:\n%s", last)
		}
	}()
	await(p.t, "pc endpoints shows "+strings.Join(lines, " / "), func() bool {
		last = p.pc("endpoints")
		var got []string
		for line := range strings.Lines(last) {
			if strings.Contains(line, "mydb") {
				got = append(got, blanks.ReplaceAllString(strings.TrimSpace(line), " "))
			}
		}
		return fmt.Sprint(got) == fmt.Sprint(lines)
	})
}

// line is one of the table's.
func line(s *site, port uint16, check string) string {
	return fmt.Sprintf("%s HEALTHY %s %s", netip.AddrPortFrom(s.ip, port), check, cluster80)
}

// TestWalkthroughSteps goes through steps 1, 2, 3 and 3b with one proxy, changing its configuration as it runs.
func TestWalkthroughSteps(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	p := w.proxyIn("us-east1")
	for _, entry := range []struct {
		name string
		c    *client
	}{{"forward proxy", w.client()}, {"captured", p.captured()}} {
		t.Run(entry.name, func(t *testing.T) { p.steps(t, entry.c) })
	}
}

func (p *proxy) steps(t *testing.T, c *client) {
	w := p.w
	w.write(entryFile, w.walkthrough(step1))
	p.awaitHosts(cluster80, "10.1.0.1:80", "10.2.0.1:80")

	both(t, c.gets(40)) // step 1
	p.table(line(w.east, 80, "OK"), line(w.west, 80, "OK"))

	w.write(ruleFile, w.walkthrough(step2)) // step 2
	p.awaitStat(t, 1)
	all(t, fromEast, c.gets(5))
	p.table(line(w.east, 80, "OK"), line(w.west, 80, "OK"))

	w.write(entryFile, w.walkthrough(step3)) // step 3
	p.awaitHosts(cluster80, "10.1.0.1:81", "10.2.0.1:80")
	all(t, fromWest, c.gets(5))
	p.table(line(w.east, 81, "FAILED"), line(w.west, 80, "OK"))

	w.write(entryFile, w.walkthrough(step1)) // step 3b
	p.awaitHosts(cluster80, "10.1.0.1:80", "10.2.0.1:80")
	all(t, fromEast, c.gets(5))
	p.table(line(w.east, 80, "OK"), line(w.west, 80, "OK"))

	w.remove(ruleFile)
	p.awaitStat(t, 0)
}

// awaitStat waits until outlier detection is configured for mydb.com, or no more.
func (p *proxy) awaitStat(t testing.TB, rules int) {
	t.Helper()
	await(t, fmt.Sprintf("%d DestinationRules in force", rules), func() bool {
		return strings.Count(p.ask("/config_dump"), `"outlier_detection"`) == rules
	})
}

// TestWalkthroughStep3WithoutRetries shows the walkthrough's one visible error.
func TestWalkthroughStep3WithoutRetries(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	w.write(routeFile, noRetries)
	p := w.proxyIn("us-east1")
	c := w.client()
	all(t, fromEast, c.gets(5))
	w.write(entryFile, w.walkthrough(step3))
	p.awaitHosts(cluster80, "10.1.0.1:81", "10.2.0.1:80")
	first := c.get()
	if want := "upstream connect error or disconnect/reset before headers. reset reason: connection failure"; first.Status != 503 || first.Body != want {
		t.Fatalf("the first request: %v, want 503: %s", first, want)
	}
	all(t, fromWest, c.gets(4))
	p.table(line(w.east, 81, "FAILED"), line(w.west, 80, "OK"))
}

// TestWalkthroughStep5 runs the application in the other region.
func TestWalkthroughStep5(t *testing.T) {
	w := regions(t)
	w.write(entryFile, w.walkthrough(step1))
	w.write(ruleFile, w.walkthrough(step2))
	w.proxyIn("us-west")
	c := w.client()
	all(t, fromWest, c.gets(5))
	w.west.ports[80].stop()
	all(t, fromEast, c.gets(5))
}

// TestWalkthroughStep6 runs the application where no endpoint is, and where nobody said.
func TestWalkthroughStep6(t *testing.T) {
	for _, locality := range []string{"eu-central1", ""} {
		t.Run("locality "+locality, func(t *testing.T) {
			w := regions(t)
			w.write(entryFile, w.walkthrough(step1))
			w.proxyIn(locality)
			both(t, w.client().gets(40))
		})
	}
}
