//go:build linux

package feature

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
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
	g := &grammar{Rand: rand.New(rand.NewPCG(seed, seed))}
	var docs, text []string
	var calls []call
	var of []int // which host a call is for
	for i := range randomHosts {
		doc, cs := g.host(i, randomRequests)
		text = append(text, doc[len(doc)-1])
		docs = append(docs, doc...)
		calls = append(calls, cs...)
		for range cs {
			of = append(of, i)
		}
	}
	p := parity{text: strings.Join(docs, "---\n"), flags: []string{"--labels", "app=web,version=v1"},
		prepare: func(*world) map[string]stub {
			out := map[string]stub{}
			for i := range grammarEndpoints {
				out[fmt.Sprintf("10.1.0.%d:8080", i+1)] = stub{status: attemptCodes(), header: map[string]string{"x-one": "up", "x-two": "up", "cache-control": "none", "server": "stub"}}
			}
			return out
		},
		script: func(a *actor) {
			for _, c := range calls {
				answer := a.ask(&a.own, c)
				if c.method == "HEAD" { // how long the body would be that is not sent: an Envoy says so in its own answers, or chunked
					answer = withoutLength.ReplaceAllString(answer, "")
				}
				for _, r := range a.takeArrivals() {
					answer += "\n    " + r.endpoint + " got " + joined(r.text)
				}
				a.note("%s", answer)
			}
		}}
	envoy, detour := p.play(t, envoyBinary(t), nil), p.play(t, "", nil)
	differ := 0
	for i := range min(len(envoy), len(detour)) {
		if envoy[i] == detour[i] {
			continue
		}
		if differ++; differ <= 5 {
			t.Errorf("seed %d, host %d: %+v\nEnvoy:  %s\ndetour: %s\n%s", seed, of[i], calls[i], envoy[i], detour[i], text[of[i]])
		}
	}
	if differ > 0 || len(envoy) != len(calls) || len(detour) != len(calls) {
		t.Errorf("seed %d: %d of %d requests differ (%d and %d answers)", seed, differ, len(calls), len(envoy), len(detour))
	}
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
