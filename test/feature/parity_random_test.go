//go:build linux

package feature

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"
)

// randomSeeds is the variable that makes TestParityRandom search: "FIRST-LAST", or one seed.
const randomSeeds = "PARITY_SEEDS"

// What the committed test plays.
const (
	randomSeed     = 1
	randomHosts    = 200
	randomRequests = 6 // of each host
)

// TestParityRandom gives both engines hosts with VirtualServices and DestinationRules that a grammar makes
// (parity_grammar_test.go), and requests that nearly fit them. PARITY_SEEDS=1-50 searches with other seeds.
func TestParityRandom(t *testing.T) {
	first, last := randomSeed, randomSeed
	if s := os.Getenv(randomSeeds); s != "" {
		from, to, _ := strings.Cut(s, "-")
		var err error
		if first, err = strconv.Atoi(from); err != nil {
			t.Fatal(err)
		}
		if last = first; to != "" {
			if last, err = strconv.Atoi(to); err != nil {
				t.Fatal(err)
			}
		}
	}
	for seed := first; seed <= last; seed++ {
		t.Run(strconv.Itoa(seed), func(t *testing.T) { playRandom(t, uint64(seed)) })
	}
}

func playRandom(t *testing.T, seed uint64) {
	t.Parallel()
	r := newRandom(seed)
	envoy, detour := r.play(t, envoyBinary(t), nil), r.play(t, "", nil)
	differ := 0
	for i := range min(len(envoy), len(detour)) {
		if envoy[i] == detour[i] {
			continue
		}
		if differ++; differ <= 5 {
			host := i / randomRequests
			t.Errorf("seed %d, host %d: %+v\nEnvoy:  %s\ndetour: %s\n%s", seed, host, r.calls[i], envoy[i], detour[i], r.rules[host])
		}
	}
	if differ > 0 || len(envoy) != len(r.calls) || len(detour) != len(r.calls) {
		t.Errorf("seed %d: %d of %d requests differ (%d and %d answers)", seed, differ, len(r.calls), len(envoy), len(detour))
	}
}

// TestParityRandomSpoilt: where the engines get configurations that differ in a value here and there, it shows.
func TestParityRandomSpoilt(t *testing.T) {
	t.Parallel()
	r := newRandom(randomSeed)
	envoy := r.play(t, envoyBinary(t), nil)
	for old, new := range map[string]string{"prefix: /a/b": "prefix: /b/a", " status: 404": " status: 410", "authority: rewritten.test": "authority: spoilt.test"} {
		detour := r.play(t, "", map[string]string{old: new})
		if slices.Equal(envoy, detour) {
			t.Errorf("%q in place of %q makes no difference", new, old)
		}
	}
}

// random is what a seed makes: a configuration, each host's rules, and the requests, randomRequests for each host.
type random struct {
	parity
	rules []string
	calls []call
}

func newRandom(seed uint64) *random {
	r, g := &random{}, &grammar{Rand: rand.New(rand.NewPCG(seed, seed))}
	var docs []string
	for i := range randomHosts {
		doc, calls := g.host(i, randomRequests)
		docs, r.rules, r.calls = append(docs, doc...), append(r.rules, doc[len(doc)-1]), append(r.calls, calls...)
	}
	r.parity = parity{text: strings.Join(docs, "---\n"), flags: []string{"--labels", "app=web,version=v1"},
		prepare: func(*world) map[string]stub {
			out := map[string]stub{}
			for i := range grammarEndpoints {
				out[fmt.Sprintf("10.1.0.%d:8080", i+1)] = stub{status: attemptCodes(), header: map[string]string{"x-one": "up", "x-two": "up", "cache-control": "none", "server": "stub"}}
			}
			return out
		},
		script: func(a *actor) {
			for _, c := range r.calls {
				answer := a.ask(&a.own, c)
				if c.method == "HEAD" { // how long the body would be that is not sent: an Envoy says so in its own answers, or chunked
					answer = withoutLength.ReplaceAllString(answer, "")
				}
				for _, got := range a.takeArrivals() {
					answer += "\n    " + got.endpoint + " got " + joined(got.text)
				}
				a.note("%s", answer)
			}
		}}
	return r
}

var withoutLength = regexp.MustCompile(` \| (transfer-encoding: chunked|content-length: 0)`)

// joined makes one field of several that have one name, which is what an Envoy does with some (RFC 9110 §5.3).
func joined(text string) string {
	parts := strings.Split(text, " | ")
	out := parts[:1]
	for _, p := range parts[1:] {
		name, value, _ := strings.Cut(p, ":")
		before, old, _ := strings.Cut(out[len(out)-1], ":")
		value, old = strings.TrimSpace(value), strings.TrimSpace(old)
		switch {
		case before != name || len(out) == 1:
			out = append(out, p)
		case old == "":
			out[len(out)-1] = name + ": " + value
		case value != "":
			out[len(out)-1] = name + ": " + old + "," + value
		}
	}
	return strings.Join(out, " | ")
}

// attemptCodes answers the attempts of a request with the codes that it lists in x-codes, the last for all further ones;
// x-n tells requests apart.
func attemptCodes() func(int, *http.Request) int {
	var mu sync.Mutex
	seen := map[string]int{}
	return func(_ int, r *http.Request) int {
		codes := strings.Split(r.Header.Get("x-codes"), ",")
		if codes[0] == "" {
			return 200
		}
		mu.Lock()
		defer mu.Unlock()
		n := min(seen[r.Header.Get("x-n")], len(codes)-1)
		seen[r.Header.Get("x-n")]++
		status, _ := strconv.Atoi(codes[n])
		return status
	}
}

// object writes one object as YAML.
func object(kind, name string, spec map[string]any) string {
	b, err := yaml.Marshal(map[string]any{"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec})
	if err != nil {
		panic(err)
	}
	return string(b)
}
