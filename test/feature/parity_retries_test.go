//go:build linux

package feature

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// byCodes answers the attempts of each request with the codes that it lists in x-codes, the last one for all further
// ones. Requests are told apart by path and list.
func byCodes() func(int, *http.Request) int {
	var mu sync.Mutex
	seen := map[string]int{}
	return func(_ int, r *http.Request) int {
		list := r.Header.Get("x-codes")
		if list == "" {
			return 200
		}
		mu.Lock()
		defer mu.Unlock()
		key := r.Method + r.URL.Path + list
		codes := strings.Split(list, ",")
		n := min(seen[key], len(codes)-1)
		seen[key]++
		status, _ := strconv.Atoi(codes[n])
		return status
	}
}

func TestParityRetries(t *testing.T) {
	parity{config: "retries",
		prepare: func(*world) map[string]stub {
			return map[string]stub{
				"10.1.0.1:8080": {status: byCodes(), header: map[string]string{"grpc-status": "14"}},
				"10.1.0.1:8082": {reset: func(n int) bool { return n%4 != 0 }},
			}
		},
		script: func(a *actor) {
			for _, path := range []string{"/default", "/none", "/5xx", "/gateway", "/retriable4", "/codes", "/header", "/reset", "/beforerq", "/connect", "/refused", "/ratelimited",
				"/grpc", "/backoff"} {
				for _, codes := range []string{"500,200", "503,503,503,503", "502,504,200", "409,200", "418,418,418,418,200", "429,200", "501,505"} {
					a.get("http://one.test"+path, "x-codes: "+codes)
				}
			}
			a.do(call{method: "POST", url: "http://one.test/5xx", header: []string{"x-codes: 503,200"}, body: "a body"})
			a.do(call{method: "HEAD", url: "http://one.test/5xx", header: []string{"x-codes: 502,200"}})
		}}.run(t)
}

// TestParityRetriesOfConnections: connections that are refused, or reset once the request is there.
func TestParityRetriesOfConnections(t *testing.T) {
	parity{config: "retries",
		upstreams: map[string]stub{"10.1.0.1:8082": {reset: func(n int) bool { return n%4 != 0 }}},
		script: func(a *actor) {
			for _, path := range []string{"/dead", "/cut5xx", "/cutgateway", "/cutreset", "/cutconnect", "/cutbefore", "/cutdefault"} {
				for range 4 {
					a.get("http://one.test" + path)
				}
			}
		}}.run(t)
}

func TestParityPerTryTimeout(t *testing.T) {
	parity{config: "retries",
		upstreams: map[string]stub{"10.1.0.1:8080": {wait: time.Second}},
		script: func(a *actor) {
			a.took(call{url: "http://one.test/pertry"}, 200*time.Millisecond, 900*time.Millisecond)
			a.took(call{url: "http://one.test/pertryreset"}, 100*time.Millisecond, 900*time.Millisecond)
			a.took(call{url: "http://one.test/pertryconnect"}, 100*time.Millisecond, 900*time.Millisecond)
			a.took(call{url: "http://one.test/overall"}, time.Second, 1400*time.Millisecond)
		}}.run(t)
}

// TestParityRetryHosts: which endpoint gets the next attempt.
func TestParityRetryHosts(t *testing.T) {
	parity{config: "retries-hosts",
		upstreams: map[string]stub{
			"10.1.1.1:8080": {status: always(503)}, "10.1.1.2:8080": {status: always(503)}, "10.1.1.3:8080": {status: always(503)},
			"10.1.2.1:8080": {status: always(503)}, "10.1.2.2:8080": {},
			"10.1.3.1:8080": {status: always(503)},
		},
		script: func(a *actor) {
			for _, path := range []string{"/previous", "/ignore"} {
				different, tries := 0, 0
				for range 20 {
					a.ask(&a.own, call{url: "http://many.test" + path})
					hosts := map[string]bool{}
					for _, r := range a.takeArrivals() {
						hosts[r.endpoint] = true
						tries++
					}
					different += len(hosts)
				}
				a.note("%s: %d attempts, %d endpoints", path, tries, different)
			}
			a.gets("http://far.test/near", "http://far.test/remote", "http://far.test/remote")
			a.get("http://budget.test/")
		}}.run(t)
}
