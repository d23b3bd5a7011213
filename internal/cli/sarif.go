package cli

import (
	"encoding/json"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/analyze"
)

// SARIF 2.1.0 (OASIS), as far as a list of findings needs it; the names are the standard's. A rule's help is the page of
// docs/analysis itself, so that nobody has to find it.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string            `json:"id"`
		ShortDescription sarifText         `json:"shortDescription"`
		Help             sarifText         `json:"help"`
		Properties       map[string]string `json:"properties,omitempty"`
	}
	sarifText struct {
		Text     string `json:"text"`
		Markdown string `json:"markdown,omitempty"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations,omitempty"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact struct {
			URI string `json:"uri"`
		} `json:"artifactLocation"`
		Region *sarifRegion `json:"region,omitempty"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn,omitempty"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
		Kind               string `json:"kind"`
	}
)

// printSARIF writes the issues as CI systems take them.
func printSARIF(w io.Writer, issues []config.Issue, release string) error {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}, Tool: sarifTool{sarifDriver{Name: "detour", Version: release, Rules: []sarifRule{}}}}
	index := map[string]int{}
	for _, i := range issues {
		n, known := index[i.Code]
		if !known {
			n = len(run.Tool.Driver.Rules)
			index[i.Code] = n
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, ruleOf(i.Code))
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: i.Code, RuleIndex: n, Level: i.Severity.String(), Message: sarifText{Text: sarifMessage(i)}, Locations: locations(i),
		})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

func ruleOf(code string) sarifRule {
	title := analyze.Title(code)
	r := sarifRule{ID: code, ShortDescription: sarifText{Text: title}, Help: sarifText{Text: title}}
	if p, ok := analyze.Explain(code); ok {
		r.Help = sarifText{Text: p.Why, Markdown: p.Markdown()}
		r.Properties = map[string]string{"page": "docs/analysis/" + code + ".md"}
	}
	return r
}

func sarifMessage(i config.Issue) string {
	text := i.Message
	if i.Field != "" {
		text = i.Field + ": " + text
	}
	if i.Object != (config.Key{}) {
		text = i.Object.String() + ": " + text
	}
	return text
}

func locations(i config.Issue) []sarifLocation {
	var l sarifLocation
	if i.Origin.File != "" {
		l.Physical = &sarifPhysical{}
		l.Physical.Artifact.URI = artifactURI(i.Origin.File)
		if i.Origin.Line > 0 {
			l.Physical.Region = &sarifRegion{i.Origin.Line, i.Origin.Column}
		}
	}
	if i.Object != (config.Key{}) {
		l.Logical = []sarifLogical{{strings.TrimSuffix(i.Object.String()+"/"+i.Field, "/"), "object"}}
	}
	if l.Physical == nil && l.Logical == nil {
		return nil
	}
	return []sarifLocation{l}
}

// artifactURI gives a file's URI, relative where its name is; "<stdin>" is no file, and gets a name of its own.
func artifactURI(file string) string {
	if strings.HasPrefix(file, "<") {
		return strings.Trim(file, "<>")
	}
	u := url.URL{Path: filepath.ToSlash(file)}
	if filepath.IsAbs(file) {
		u.Scheme = "file"
	}
	return u.String()
}

// outputs are the forms of a finding.
var outputs = []string{"text", "json", "sarif"}

func knownOutput(o string) bool { return slices.Contains(outputs, o) }
