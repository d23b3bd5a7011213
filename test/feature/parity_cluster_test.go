//go:build linux

package feature

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// held is a stub whose first n requests wait for the script.
func heldFirst(n int) stub { return stub{hold: func(i int) bool { return i <= n }} }

func TestParityBreakers(t *testing.T) {
	parity{config: "breakers",
		upstreams: map[string]stub{
			"10.1.0.1:8080": heldFirst(1), "10.1.0.1:8081": heldFirst(1), "10.1.0.1:8082": heldFirst(2),
			"10.1.0.1:8083": {}, "10.1.0.1:8084": {raw: echoUntilRelease}, "10.1.0.1:8085": {status: always(503)}, "10.1.0.1:8086": {},
		},
		script: func(a *actor) {
			first := a.start(call{url: "http://breakers.test/held"})
			a.awaitArrivals(1)
			a.get("http://breakers.test/overflow")
			a.release()
			a.finish(first)
			a.holdAgain()
			a.get("http://breakers.test/again")
			one := a.start(call{url: "http://breakers.test:82/one"})
			a.awaitArrivals(1)
			two := a.start(call{url: "http://breakers.test:82/two"})
			a.awaitArrivals(2)
			three := a.start(call{url: "http://breakers.test:82/three"}) // waits: there is no limit to what waits
			a.release()
			a.finish(one, two, three)
			a.noteArrivalsSorted("  ")
			a.gets("http://breakers.test:83/a", "http://breakers.test:83/b", "http://breakers.test:85/")
			a.get("http://breakers.test:86/")
		}}.run(t)
}

// TestParityPending: one request is under way, one waits for its connection, the next finds no room.
func TestParityPending(t *testing.T) {
	parity{config: "breakers", upstreams: map[string]stub{"10.1.0.1:8081": heldFirst(1)},
		script: func(a *actor) {
			first := a.start(call{url: "http://breakers.test:81/first"})
			a.awaitArrivals(1)
			// Of two more, one waits for the connection and the other finds no room.
			second, third := a.start(call{url: "http://breakers.test:81/more"}), a.start(call{url: "http://breakers.test:81/more"})
			waits, full := second, third
			var answer string
			select {
			case answer = <-second.answer:
				waits, full = third, second
			case answer = <-third.answer:
			}
			a.noteAnswer(full.c, answer)
			a.release()
			a.finish(first, waits)
			a.noteArrivals("  ")
		}}.run(t)
}

// echoUntilRelease answers what it got once the script releases it.
func echoUntilRelease(a *actor, addr string, c net.Conn) {
	b, err := io.ReadAll(c)
	if err == nil {
		fmt.Fprintf(c, "%s got %s", addr, b)
	}
}

// echo answers with its address and what it got.
func echo(_ *actor, addr string, c net.Conn) {
	b, err := io.ReadAll(c)
	if err == nil {
		fmt.Fprintf(c, "%s got %s", addr, b)
	}
}

func TestParityBalance(t *testing.T) {
	parity{config: "balance",
		upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}, "10.1.0.3:8080": {}},
		script: func(a *actor) {
			for _, port := range []string{"80", "81", "82", "83"} {
				a.spread("port"+port, 2000, same(call{url: "http://lb.test:" + port + "/"}))
			}
			a.spread("subset", 20, same(call{url: "http://lb.test/v1"}))
			a.spread("random", 2000, same(call{url: "http://lb.test/v2"}))
			a.spread("big", 20, same(call{url: "http://lb.test/big"}))
			a.spread("split", 2000, same(call{url: "http://lb.test/split"}))
			a.gets("http://lb.test/nobody")
			await(a.t, "warm", func() bool { return a.after(1200 * time.Millisecond) })
			a.spread("warm", 2000, same(call{url: "http://lb.test:84/"}))
			a.spread("warmold", 2000, same(call{url: "http://lb.test:85/"}))
		}}.run(t)
}

func TestParityHash(t *testing.T) {
	parity{config: "hash",
		upstreams: map[string]stub{"10.1.0.1:8080": {}, "10.1.0.2:8080": {}, "10.1.0.3:8080": {},
			"10.1.0.1:8081": {raw: echo}, "10.1.0.2:8081": {raw: echo}, "10.1.0.3:8081": {raw: echo}},
		script: func(a *actor) {
			const keys = 30
			for _, port := range []string{"80", "85", "86", "87"} {
				var where []string
				for i := range keys {
					_, body, err := a.own.send(call{url: "http://hash.test:" + port + "/", header: []string{fmt.Sprintf("x-user: user-%d", i)}})
					if err != nil {
						a.t.Fatal(err)
					}
					where = append(where, strings.TrimSuffix(strings.TrimPrefix(body, "10.1.0."), ":8080"))
				}
				a.note("port %s: %s", port, strings.Join(where, ""))
			}
			for i := range 10 {
				a.do(call{url: "http://hash.test:81/", header: []string{fmt.Sprintf("cookie: a=b; user=%d; c=d", i)}})
				a.do(call{url: "http://hash.test:82/", header: []string{fmt.Sprintf("cookie: made=%d", i)}})
				a.do(call{url: "http://hash.test:83/", from: fmt.Sprintf("10.255.1.%d", i+1)})
				a.do(call{url: fmt.Sprintf("http://hash.test:84/?x=y&user=%d", i)})
				a.do(call{url: "http://hash.test:80/", header: []string{fmt.Sprintf("x-user: %d", i), "x-user: more"}})
			}
			for range 5 {
				a.exchange("by source", "10.200.14.2:88", "some bytes")
			}
			a.madeCookie(call{url: "http://hash.test:82/"}, "made")
		}}.run(t)
}

// TestParityHashOfSubsets: which endpoint of a subset a key leads to, where weights choose the subset.
func TestParityHashOfSubsets(t *testing.T) {
	upstreams := map[string]stub{}
	for i := range 4 {
		upstreams[fmt.Sprintf("10.1.0.%d:8080", i+1)] = stub{ignore: true}
	}
	parity{config: "hash", upstreams: upstreams,
		script: func(a *actor) {
			user := func(url string, i int) call {
				return call{url: url, header: []string{fmt.Sprintf("x-user: user-%d", i), fmt.Sprintf("x-other: %d", i)}}
			}
			for _, url := range []string{"http://parts.test/v1", "http://parts.test/v2", "http://parts.test:81/"} {
				var where []string
				for i := range 100 {
					_, body, err := a.own.send(user(url, i))
					if err != nil {
						a.t.Fatal(err)
					}
					where = append(where, strings.TrimSuffix(strings.TrimPrefix(body, "10.1.0."), ":8080"))
				}
				a.note("%s: %s", url, strings.Join(where, ""))
			}
			for i := range 10 {
				seen := map[string]bool{}
				for range 40 { // both subsets are hit, but for once in 10^8
					_, body, _ := a.own.send(user("http://parts.test/", i))
					seen[body] = true
				}
				a.note("user %d: %v", i, seen)
			}
			a.spread("split", 2000, func(i int) call { return user("http://parts.test/", i%50) })
		}}.run(t)
}

// madeCookie notes a cookie that the proxy made, but for its value, and whether the client that shows it stays where it was.
func (a *actor) madeCookie(c call, name string) {
	a.t.Helper()
	answer, body, err := a.own.send(c)
	if err != nil {
		a.t.Fatal(err)
	}
	_, rest, found := strings.Cut(answer, "set-cookie: "+name+"=")
	value, attributes, _ := strings.Cut(rest, ";")
	attributes, _, _ = strings.Cut(attributes, " | ")
	a.note("cookie made: %v, %d bytes, %s", found, len(value), attributes)
	for range 5 {
		c.header = []string{"cookie: " + name + "=" + strings.Trim(value, `"`)}
		_, again, err := a.own.send(c)
		a.note("the same endpoint: %v %v", again == body, err)
	}
	a.takeArrivals()
}

func TestParityLocality(t *testing.T) {
	upstreams := map[string]stub{}
	for _, n := range []string{"0.1", "0.2", "0.3", "1.2", "1.3", "2.1", "3.2", "4.1"} {
		upstreams["10.1."+n+":8080"] = stub{}
	}
	for _, n := range []string{"1.1", "2.2", "3.1", "4.2"} {
		upstreams["10.1."+n+":8080"] = stub{status: always(500)}
	}
	parity{config: "locality", locality: "us-east1/a", flags: []string{"--labels", "version=v1"}, upstreams: upstreams,
		script: func(a *actor) {
			a.spread("distribute", 2000, same(call{url: "http://spread.test/"}))
			for _, host := range []string{"failover.test", "labels.test", "zone.test", "zonelabels.test"} {
				for range 6 {
					a.get("http://" + host + "/")
					a.settle()
				}
			}
		}}.run(t)
}

func TestParityOutlier(t *testing.T) {
	bad := func(status ...int) stub {
		return stub{status: func(n int, _ *http.Request) int { return status[(n-1)%len(status)] }}
	}
	parity{config: "outlier",
		upstreams: map[string]stub{
			"10.1.0.1:8080": bad(500, 502, 503), "10.1.0.2:8080": {},
			"10.1.0.1:8081": bad(503, 418, 429), "10.1.0.2:8081": {},
			"10.1.0.2:8082": {},
			"10.1.0.1:8083": bad(500), "10.1.0.2:8083": bad(500),
			"10.1.0.1:8084": bad(500), "10.1.0.2:8084": bad(500),
			"10.1.0.1:8085": bad(500, 500, 200, 500, 501, 503), "10.1.0.2:8085": {},
			"10.1.0.1:8086": bad(500), "10.1.0.2:8086": {},
			"10.1.0.2:8087": {raw: echo},
			"10.1.0.1:8088": {status: fails(1, 500)}, "10.1.0.2:8088": {},
			"10.1.0.1:8089": {status: fails(1, 502)}, "10.1.0.2:8089": {},
		},
		script: func(a *actor) {
			for _, port := range []string{"80", "81", "82", "85", "86"} {
				a.outcomes("port "+port, "http://outlier.test:"+port+"/", 14)
			}
			// All endpoints of these fail: with which it begins is chance.
			for _, port := range []string{"83", "84"} {
				count := map[string]int{}
				for range 20 {
					a.ask(&a.own, call{url: "http://outlier.test:" + port + "/"})
					a.settle()
				}
				for _, r := range a.takeArrivals() {
					count[r.endpoint]++
				}
				a.note("port %s: one endpoint got at least 5: %v, both: %v", port, count["10.1.0.1:80"+port] >= 5 || count["10.1.0.2:80"+port] >= 5,
					count["10.1.0.1:80"+port] >= 5 && count["10.1.0.2:80"+port] >= 5)
			}
			count := map[string]int{}
			for range 10 {
				count[a.converse("10.200.16.1:87", "x")]++
				a.settle()
			}
			a.note("tcp: %v", count)
			for _, port := range []string{"88", "89"} {
				a.outcomes("back at "+port, "http://outlier.test:"+port+"/", 3)
				await(a.t, "back again", func() bool {
					_, body, _ := a.own.send(call{url: "http://outlier.test:" + port + "/"})
					return body == "10.1.0.1:80"+port
				})
			}
		}}.run(t)
}

// settle waits until an Envoy has ejected what failed: its main thread does that, a moment after the answer, and answers
// the admin API after it.
func (a *actor) settle() {
	if a.proxy == nil {
		r, err := a.w.adminClient().Get("http://" + adminAddr + "/ready")
		if err != nil {
			a.t.Fatal(err)
		}
		r.Body.Close()
	}
}

// outcomes notes how many of n requests had which answer from which endpoint; where round robin begins is chance.
func (a *actor) outcomes(what, url string, n int) {
	a.t.Helper()
	count := map[string]int{}
	for range n {
		answer := a.ask(&a.own, call{url: url})
		a.settle()
		status, _, _ := strings.Cut(answer, " ")
		from := "nobody"
		for _, r := range a.takeArrivals() {
			from = r.endpoint
		}
		count[status+" from "+from]++
	}
	var out []string
	for k, v := range count {
		out = append(out, fmt.Sprintf("%d × %s", v, k))
	}
	slices.Sort(out)
	a.note("%s: %s", what, strings.Join(out, ", "))
}
