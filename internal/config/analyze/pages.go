package analyze

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// Page explains one code: the source of docs/analysis and of `analyze --explain`. Its examples are run by a test: the
// first gives this code and no other warning or error, the mended one gives it no more.
type Page struct {
	Code, Title string
	Why         string // what it means and what to do about it, in Markdown
	Flags       string // flags of `detour analyze` beside -f
	Bad, Good   string // whole configurations
}

// Pages gives all pages, sorted by code.
func Pages() []Page {
	var out []Page
	for _, list := range [][]Page{failoverPages, networkPages, transportPages, objectPages, routePages, otherPages} {
		out = append(out, list...)
	}
	return out
}

// Explain gives the page of a code; ok is false where there is none.
func Explain(code string) (p Page, ok bool) {
	for _, p := range Pages() {
		if strings.EqualFold(p.Code, code) {
			return p, true
		}
	}
	return Page{}, false
}

// Titles gives the title of each code that has a page.
func Titles() map[string]string {
	out := map[string]string{}
	for _, p := range Pages() {
		out[p.Code] = p.Title
	}
	return out
}

//go:generate go test -run TestPagesAreCurrent . -update

// Index writes docs/analysis/README.md: every code with its title, and the page of those that have one.
func Index() string {
	var b strings.Builder
	b.WriteString(`# What detour says about a configuration

Every finding of ` + "`detour analyze`" + ` ends with a code, which never changes its meaning. ` + "`detour analyze --explain DTR0103`" + `
prints the code's page. Codes below DTR0100 are about reading files, DTR0100 to DTR0199 come from analysis, DTR0200 to DTR0499 and
DTR0600 from judging one object, DTR0500 from compiling, DTR0900 from what the embedded engine lacks. Most codes without a page
are errors, whose message says what is allowed.

| code | what it is about |
|---|---|
`)
	for _, code := range AllCodes() {
		name := code
		if _, ok := Explain(code); ok {
			name = "[" + code + "](" + code + ".md)"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, Title(code))
	}
	return b.String()
}

// AllCodes gives every code that has a title, sorted.
func AllCodes() []string {
	all := Titles()
	for _, m := range []map[string]string{config.Codes, translate.Codes} {
		maps.Copy(all, m)
	}
	return slices.Sorted(maps.Keys(all))
}

// Markdown writes the page.
func (p Page) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\n\n%s\n", p.Code, p.Title, strings.TrimSpace(p.Why))
	command := strings.TrimSpace("detour analyze -f config.yaml " + p.Flags)
	fmt.Fprintf(&b, "\n## An example\n\n`%s` finds it in\n\n```yaml\n%s```\n", command, p.Bad)
	if p.Good != "" {
		fmt.Fprintf(&b, "\n## Mended\n\n```yaml\n%s```\n", p.Good)
	}
	return b.String()
}

// swap replaces one part of an example; the part must be there.
func swap(yaml, old, with string) string {
	if strings.Count(yaml, old) != 1 {
		panic("example: " + old)
	}
	return strings.Replace(yaml, old, with, 1)
}

// What the examples are made of.
const (
	exampleEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mydb}
spec:
  hosts: [mydb.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  resolution: DNS
  endpoints:
  - {address: db.us-east1.example.net, locality: us-east1}
  - {address: db.us-west1.example.net, locality: us-west1}
`
	exampleRuleHead = `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mydb}
spec:
  host: mydb.com
`
	examplePolicy   = exampleRuleHead + "  trafficPolicy:\n"
	exampleOutlier  = "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, interval: 15s, baseEjectionTime: 1m}\n"
	exampleEjection = "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, interval: 15s, baseEjectionTime: 1m, maxEjectionPercent: 99}\n"
	exampleRule     = examplePolicy + exampleEjection
	exampleFailover = exampleEntry + exampleRule
	exampleRouter   = `---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mydb}
spec:
  hosts: [mydb.com]
  http:
`
	exampleTo   = "    route: [{destination: {host: mydb.com}}]\n"
	exampleEast = "--locality us-east1"
	exampleOne  = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example.net]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  resolution: DNS
`
)

// Title gives a code's title, whoever finds it.
func Title(code string) string {
	if p, ok := Explain(code); ok {
		return p.Title
	}
	if t, ok := config.Codes[code]; ok {
		return t
	}
	return translate.Codes[code]
}
