package demo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// step is one step of the walkthrough.
type step struct {
	Info
	text string
	play func(*stage)
}

// The localities that the application runs in.
const (
	inEast    = "us-east1"
	inWest    = "us-west"
	elsewhere = "europe-west3"
)

// The configurations of the walkthrough.
var (
	theRule     = file{"destination-rule.yaml", "dynamodb/2-destination-rule.yaml"}
	twoRegions  = []file{{"service-entry.yaml", "dynamodb/1-service-entry.yaml"}}
	preferNear  = append(slices.Clip(twoRegions), theRule)
	nearDown    = []file{{"service-entry.yaml", "dynamodb-us-east-down/3-service-entry-us-east-down.yaml"}, theRule}
	noRetries   = file{"virtual-service.yaml", "dynamodb-no-retries/3-virtual-service-no-retries.yaml"}
	https       = []file{{"service-entry.yaml", "dynamodb-https/4-https-service-entry.yaml"}, {"destination-rule.yaml", "dynamodb-https/4-https-destination-rule.yaml"}}
	passThrough = []file{{"service-entry.yaml", "dynamodb-tls/7-tls-service-entry.yaml"}, theRule}
)

// app is what the application always asks for; appTLS in the steps in which it speaks HTTPS itself.
const (
	app    = "http://mydb.com"
	appTLS = "https://mydb.com"
)

var steps []step

func init() { // not in the declaration: play leads back to steps
	steps = []step{
		{Info{ID: "1", Title: "two regions serve one name"},
			"mydb.com is in no DNS. A ServiceEntry says who can serve it, and nothing says\nwho should: both do.", stepTwoRegions},
		{Info{ID: "2", Title: "the near region serves"},
			"A DestinationRule with outlierDetection turns locality into priority: an\napplication in us-east1 is served by us-east-1 alone, as long as that is well.", stepPreferNear},
		{Info{ID: "3", Title: "the near region fails"},
			"us-east-1 is now looked for on a port where nobody listens. The connection is\nrefused, the request goes to the other region at once, the endpoint is ejected.", stepNearDown},
		{Info{ID: "3b", Title: "the mistake is corrected"},
			"The corrected endpoint is not the one that was ejected: it serves at once.", stepCorrected},
		{Info{ID: "3r", Title: "the near region fails, and nothing is tried again"},
			"A VirtualService turns retries off. The first request shows the failure to the\napplication, the others do not: the endpoint is ejected.", stepNoRetries},
		{Info{ID: "3c", Title: "the near region comes back", Slow: true},
			"The server in us-east-1 stops, and starts again later. Traffic returns after\nbaseEjectionTime (1 m), at the next sweep (every 15 s).", stepComesBack},
		{Info{ID: "3d", Title: "the near region falls silent"},
			"Packets to us-east-1 vanish without an answer, as in an outage. No request waits\nfor it longer than half a second.", stepSilent},
		{Info{ID: "4", Title: "plain HTTP inside, TLS outside"},
			"The application keeps asking for http://mydb.com. The endpoints are reached on\n443, over TLS, each by its own name: SNI, Host and certificate.", stepHTTPS},
		{Info{ID: "4b", Title: "four ways to fail behind TLS"},
			"Whatever is wrong with us-east-1, us-west-1 serves. An ejection lasts a minute:\ndetour starts anew each time.", stepHTTPSDown},
		{Info{ID: "5", Title: "an application in the other region"},
			"The same configuration as in step 2, for an application in us-west: near is\nwhere it runs.", stepOtherRegion},
		{Info{ID: "6", Title: "an application far from both"},
			"The configuration of step 1, for an application in europe-west3, where there is\nno endpoint: both serve.", stepElsewhere},
		{Info{ID: "7", Title: "an application that speaks HTTPS itself"},
			"TLS passes through: nothing is decrypted, the name in the ClientHello decides.\nBoth servers have a certificate for mydb.com here. Until us-east-1 has answered,\nthe ClientHello can be given to us-west-1. detour starts anew each time.", stepPassThrough},
		{Info{ID: "7b", Title: "a certificate that does not fit"},
			"As step 7, but us-west-1 is certified for its own name only. It can't stand in,\nand the application notices. `detour analyze --connect` says so beforehand.", stepMisfit},
	}
}

// Endpoints as `pc endpoints` names them, in its order.
func east(port int, outlier string) check {
	return check{fmt.Sprintf("%s:%d", eastAddr, port), outlier}
}
func west(port int, outlier string) check {
	return check{fmt.Sprintf("%s:%d", westAddr, port), outlier}
}

func from(name string) string { return "healthy: " + name }

// all expects every answer to come from one server.
func (st *stage) all(answers []answer, name string) {
	wrong := map[string]int{}
	for _, a := range answers {
		if got := a.what(); got != from(name) {
			wrong[got]++
		}
	}
	what := fmt.Sprintf("all %d answers are from %s", len(answers), region(name))
	if len(answers) == 1 {
		what = "the answer is from " + region(name)
	}
	st.expect(len(wrong) == 0, what, times(wrong))
}

// times lists what was seen and how often.
func times(count map[string]int) string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%d × %s", count[what], what))
	}
	return strings.Join(out, ", ")
}

// both expects answers from both servers and no others.
func (st *stage) both(answers []answer) {
	count := map[string]int{}
	for _, a := range answers {
		count[a.what()]++
	}
	e, w := count[from(eastName)], count[from(westName)]
	st.expect(e > 0 && w > 0 && e+w == len(answers), "both regions answer, and nobody else", times(count))
}

func (a answer) what() string {
	if a.code == 200 && a.exit == 0 {
		return a.body
	}
	return fmt.Sprintf("%q (HTTP status %d, exit status %d)", a.body, a.code, a.exit)
}

func region(name string) string {
	return strings.TrimSuffix(strings.TrimPrefix(name, "dynamodb."), ".amazonaws.com")
}

// seenBoth tells whether both servers have answered.
func seenBoth(all []answer) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(all, func(a answer) bool { return a.body == from(name) })
	}
	return has(eastName) && has(westName)
}

// enough is how many requests are sent at most until both servers have answered: the chance that one of two equal
// ones gets them all is 2^-39.
const enough = 40

func stepTwoRegions(st *stage) {
	st.run(inEast, twoRegions)
	st.sabotage()
	answers := st.curlUntil(5, enough, app, seenBoth)
	st.endpoints(east(80, "OK"), west(80, "OK"))
	st.both(answers)
}

func stepPreferNear(st *stage) {
	st.from(inEast, twoRegions)
	st.apply(preferNear)
	st.sabotage()
	answers := st.curl(5, app)
	st.endpoints(east(80, "OK"), west(80, "OK"))
	st.all(answers, eastName)
}

func stepNearDown(st *stage) {
	st.from(inEast, preferNear)
	st.apply(nearDown)
	answers := st.curl(5, app)
	st.endpoints(east(81, "FAILED"), west(80, "OK"))
	st.all(answers, westName)
}

func stepCorrected(st *stage) {
	st.from(inEast, nearDown)
	st.apply(preferNear)
	st.sabotage()
	answers := st.curl(5, app)
	st.endpoints(east(80, "OK"), west(80, "OK"))
	st.all(answers, eastName)
}

// firstFailure is the walkthrough's text for a connection that could not be made.
const firstFailure = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"

func stepNoRetries(st *stage) {
	st.run(inEast, append(slices.Clip(preferNear), noRetries))
	st.apply(append(slices.Clip(nearDown), noRetries))
	answers := st.curl(5, app)
	st.endpoints(east(81, "FAILED"), west(80, "OK"))
	if st.err != nil {
		return
	}
	st.expect(answers[0].code == 503 && answers[0].body == firstFailure, "the first request shows the failure, as status 503", answers[0].what())
	st.all(answers[1:], westName)
}

func stepSilent(st *stage) {
	st.run(inEast, preferNear)
	first := st.curl(1, app)
	st.do(func() error { return drop(eastAddr) })
	st.event("packets to us-east-1 vanish from now on")
	answers := st.curl(5, app)
	st.endpoints(east(80, "FAILED"), west(80, "OK"))
	if st.err != nil {
		return
	}
	slowest := slices.MaxFunc(answers, func(a, b answer) int { return int(a.took - b.took) }).took
	st.all(first, eastName)
	st.all(answers, westName)
	st.expect(slowest <= halfSecond+measured, fmt.Sprintf("the slowest took %d ms: none waits longer than half a second", slowest.Milliseconds()), "a longer one")
}

const (
	halfSecond = 500 * time.Millisecond
	// measured is what curl's own measure adds: its own start, the name, the answer.
	measured = 100 * time.Millisecond
)

func stepHTTPS(st *stage) {
	st.run(inEast, https)
	st.sabotage()
	answers := st.curl(5, app)
	if st.err != nil {
		return
	}
	seen := st.w.east.take()
	wrong := slices.DeleteFunc(slices.Clone(seen), func(r request) bool { return r.TLS != 0 && r.SNI == eastName && r.Host == eastName })
	st.endpoints(east(443, "OK"), west(443, "OK"))
	st.all(answers, eastName)
	st.expect(len(seen) == len(answers) && len(wrong) == 0, "us-east-1 saw TLS, with SNI and Host "+eastName, fmt.Sprintf("%+v", seen))
}

func stepHTTPSDown(st *stage) {
	for i, trouble := range []struct {
		what  string
		begin func(*standIn)
	}{
		{"its port is closed", (*standIn).stop},
		{"its TLS handshake fails", func(s *standIn) { s.behave(failsHandshake) }},
		{"its certificate is for another name", func(s *standIn) { s.behave(otherName) }},
		{"it answers 503", func(s *standIn) { s.behave(unavailable) }},
	} {
		st.afresh(i, https)
		st.event("us-east-1: " + trouble.what)
		st.do(func() error { trouble.begin(st.w.east); return nil })
		answers := st.curl(3, app)
		st.endpoints(east(443, "FAILED"), west(443, "OK"))
		st.all(answers, westName)
		st.do(st.w.reset)
	}
}

// afresh starts the application anew, so that nothing is ejected; only the first time it says so.
func (st *stage) afresh(i int, config []file) {
	if i == 0 {
		st.run(inEast, config)
	} else {
		st.again(inEast, config)
	}
}

func stepOtherRegion(st *stage) {
	st.run(inWest, preferNear)
	first := st.curl(2, app)
	st.event("us-west-1: its server stops")
	st.do(func() error { st.w.west.stop(); return nil })
	then := st.curl(3, app)
	st.endpoints(east(80, "OK"), west(80, "FAILED"))
	st.all(first, westName)
	st.all(then, eastName)
}

func stepElsewhere(st *stage) {
	st.run(elsewhere, twoRegions)
	st.sabotage()
	answers := st.curlUntil(5, enough, app, seenBoth)
	st.endpoints(east(80, "OK"), west(80, "OK"))
	st.both(answers)
}

func stepPassThrough(st *stage) {
	for i, trouble := range []struct {
		what  string
		begin func(*standIn) error
	}{
		{"", nil},
		{"its port is closed", func(s *standIn) error { s.stop(); return nil }},
		{"packets to it vanish", func(s *standIn) error { return drop(s.addr) }},
		{"it resets the connection after the ClientHello", func(s *standIn) error { s.behave(resetsHello); return nil }},
	} {
		st.do(func() error {
			st.w.east.certify(eastName, "mydb.com")
			st.w.west.certify(westName, "mydb.com")
			return nil
		})
		st.afresh(i, passThrough)
		server, want := eastName, []check{east(443, "OK"), west(443, "OK")}
		if trouble.begin != nil {
			st.event("us-east-1: " + trouble.what)
			st.do(func() error { return trouble.begin(st.w.east) })
			server, want[0] = westName, east(443, "FAILED")
		}
		answers := st.curl(3, appTLS)
		st.endpoints(want...)
		st.all(answers, server)
		st.do(st.w.reset)
	}
}

func stepMisfit(st *stage) {
	st.do(func() error { st.w.east.certify(eastName, "mydb.com"); return nil })
	st.run(inEast, passThrough)
	foretold := st.analyze()
	st.event("us-east-1: its port is closed")
	st.do(func() error { st.w.east.stop(); return nil })
	answers := st.curl(1, appTLS)
	log := st.awaitLog("hung up", westName)
	if st.err != nil {
		return
	}
	st.line("")
	st.expect(strings.Contains(foretold, westName) && strings.Contains(foretold, "certificate"), "analyze foretold it", "no word of us-west-1's certificate")
	st.expect(answers[0].exit == curlVerify, "the application refuses the certificate", answers[0].what())
	st.expect(log != "", "detour's log says who took over, and what its certificate carries", "no such line")
}
