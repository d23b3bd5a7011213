//go:build linux

package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"text/template"
	"time"
)

//go:embed config
var configs embed.FS

// work is what a proxy is set up for; it fills the templates in config/.
type work struct {
	Title           string
	Primary, Backup int // ports of the endpoints
	TLS             bool
	TCP             bool
	Threads         int    // 0: 1
	Access          bool   // access log to a file
	Config          string // configuration file instead of the template
	CPUs            string // empty: the proxy's CPU
}

// params is all that a template knows.
type params struct {
	work
	Dir, CA, Log, StreamModule string
	Port, Admin                int
	Files, MaxConn             int
}

// proxy is a running contender.
type proxy struct {
	*proc
	name  string
	addr  string // where clients connect to
	admin string // HOST:PORT of its statistics
	// tunnel is the authority that a client must CONNECT to first: how detour gets TCP connections without nftables.
	tunnel string
	log    string // file; empty: none
}

// render fills a template of config/ into a folder.
func (h *harness) render(name, dir string, data any) (string, error) {
	t, err := template.ParseFS(configs, "config/"+name)
	if err != nil {
		return "", err
	}
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := t.Execute(f, data); err != nil {
		return "", err
	}
	return f.Name(), nil
}

// startProxy starts a contender and waits until it listens.
func (h *harness) startProxy(ctx context.Context, name string, w work) (*proxy, error) {
	dir, err := os.MkdirTemp(h.dir, name+"-")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	w.Threads = max(w.Threads, 1)
	if w.CPUs == "" {
		w.CPUs = h.proxyCPU
	}
	p := params{work: w, Dir: dir, CA: h.ca, StreamModule: h.streamModule, Port: ports[0], Admin: ports[1], Files: h.files, MaxConn: h.maxConn}
	if w.Access {
		p.Log = filepath.Join(dir, "access.log")
	}
	argv, err := h.command(name, &p)
	if err != nil {
		return nil, err
	}
	out := ""
	if name == haproxy {
		out = p.Log
	}
	x := &proxy{name: name, addr: addr(p.Port), admin: addr(p.Admin), log: p.Log}
	if w.TCP && (name == detour || name == base) {
		x.tunnel = host + ":7000"
	}
	if x.proc, err = h.start(w.CPUs, out, argv...); err != nil {
		return nil, err
	}
	if err := x.ready(ctx, 60*time.Second, x.addr); err != nil {
		x.stop()
		return nil, err
	}
	return x, nil
}

// command writes the configuration and gives the command line.
func (h *harness) command(name string, p *params) ([]string, error) {
	file := map[string]string{detour: "detour.yaml", base: "detour.yaml", haproxy: "haproxy.cfg", nginx: "nginx.conf", envoy: "envoy.yaml"}[name]
	if file == "" {
		return nil, fmt.Errorf("no contender %q", name)
	}
	tool := h.tool(name)
	if tool == "" {
		return nil, fmt.Errorf("%s is not installed (bench/install does it)", titles[name])
	}
	conf := p.Config
	if conf == "" {
		var err error
		if conf, err = h.render(file, p.Dir, p); err != nil {
			return nil, err
		}
	}
	if p.Config != "" && name == envoy {
		// Made once for all starts, but for the ports.
		b, err := os.ReadFile(conf)
		if err != nil {
			return nil, err
		}
		b = bytes.Replace(b, []byte(`"PORT"`), []byte(strconv.Itoa(p.Port)), 1)
		b = bytes.Replace(b, []byte(`"ADMIN"`), []byte(strconv.Itoa(p.Admin)), 1)
		conf = filepath.Join(p.Dir, "envoy.json")
		if err := os.WriteFile(conf, b, 0o644); err != nil {
			return nil, err
		}
	}
	threads := strconv.Itoa(p.Threads)
	switch name {
	case haproxy:
		return []string{tool, "-db", "-f", conf}, nil
	case nginx:
		if p.TCP && p.StreamModule == "" && !h.streamBuiltIn {
			return nil, fmt.Errorf("nginx has no stream module (bench/install installs it)")
		}
		return []string{tool, "-p", p.Dir, "-c", conf, "-e", filepath.Join(p.Dir, "error.log")}, nil
	case envoy:
		return []string{tool, "-c", conf, "--concurrency", threads, "--use-dynamic-base-id", "--log-level", "warn"}, nil
	}
	return []string{tool, "proxy", "-f", conf, "--locality", "us-east1", "--concurrency", threads,
		"--http-proxy", addr(p.Port), "--admin", addr(p.Admin), "--listen", "", "--dns", "", "--resolver", "127.0.0.1:1",
		"--access-log", p.Log, "--state-file", "", "--drain-time", "1s"}, nil
}
