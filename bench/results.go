//go:build linux

package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// results is bench/results.json: the last measurement of every row.
type results struct {
	Rows map[string]*rowResult `json:"rows"`
}

// rowResult is one measurement of a row: all its contenders, in one run.
type rowResult struct {
	Date     string            `json:"date"` // RFC 3339
	Command  string            `json:"command"`
	Rounds   int               `json:"rounds"`
	Duration string            `json:"duration"`
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Notes    []string          `json:"notes,omitempty"`
	// Off and On are without and with the access log: contender → metric → a figure for each round.
	Off    figures  `json:"off"`
	On     figures  `json:"on,omitempty"`
	Errors []string `json:"errors,omitempty"` // contenders that could not be measured
}

type machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	System string `json:"system"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d CPUs, %s, Linux %s, %s", m.CPU, m.CPUs, m.Memory, m.Kernel, m.System)
}

func readResults(file string) (results, error) {
	r := results{Rows: map[string]*rowResult{}}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

func (r results) write(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(compact(b), '\n'), 0o644)
}

// compact puts lists of numbers on one line.
func compact(b []byte) []byte {
	var out []byte
	inList := false
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case c == '[' && i+1 < len(b) && b[i+1] == '\n':
			j := i + 1
			for j < len(b) && (b[j] == '\n' || b[j] == ' ') {
				j++
			}
			inList = j < len(b) && (b[j] >= '0' && b[j] <= '9' || b[j] == '-')
		case c == ']':
			inList = false
		}
		if inList && (c == '\n' || c == ' ') {
			continue
		}
		out = append(out, c)
	}
	return out
}

func thisMachine() machine {
	m := machine{CPUs: runtime.NumCPU(), CPU: field("/proc/cpuinfo", "model name", ":"), System: strings.Trim(field("/etc/os-release", "PRETTY_NAME", "="), `"`)}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		m.Memory = fmt.Sprintf("%.0f GB", float64(s.Totalram)*float64(s.Unit)/1e9)
	}
	return m
}

// field gives the first value of a key in a file of KEY SEPARATOR VALUE lines.
func field(file, key, separator string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(line, separator)
		if ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// versions asks every contender which it is.
func (h *harness) versions() map[string]string {
	out := map[string]string{}
	for name, argument := range map[string]string{haproxy: "-v", nginx: "-v", envoy: "--version", detour: "version", base: "version"} {
		if h.tools[name] == "" {
			continue
		}
		b, err := exec.Command(h.tools[name], argument).CombinedOutput()
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		if name == envoy { // PATH version: HASH/VERSION/…
			if parts := strings.Split(first, "/"); len(parts) > 4 {
				first = "Envoy " + parts[len(parts)-4] + " " + strings.Join(parts[len(parts)-2:], " ")
			}
		}
		out[name] = strings.TrimPrefix(strings.TrimPrefix(first, "nginx version: "), "HAProxy version ")
		switch name {
		case haproxy:
			out[name] = "HAProxy " + strings.TrimSuffix(out[name], " - https://haproxy.org/")
		case detour, base:
			out[name] += revision(h.tools[name])
		}
	}
	return out
}

// revision gives the commit that a Go program was built from, if it knows.
func revision(file string) string {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return ""
	}
	out := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			out = ", commit " + s.Value[:min(len(s.Value), 12)] + out
		case s.Key == "vcs.modified" && s.Value == "true":
			out += " with changes"
		}
	}
	return out
}
