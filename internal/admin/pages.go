package admin

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"detour.dev/detour/internal/stats"
)

func (h *Handler) sortedPaths() []string {
	all := make([]string, 0, len(h.paths))
	for p := range h.paths {
		all = append(all, p)
	}
	sort.Strings(all)
	return all
}

func (h *Handler) commands() string {
	var b strings.Builder
	b.WriteString("admin commands are:\n")
	for _, p := range h.sortedPaths() {
		post := ""
		if h.paths[p].post {
			post = " (POST)"
		}
		fmt.Fprintf(&b, "  %s%s: %s\n", p, post, h.paths[p].help)
	}
	return b.String()
}

func (h *Handler) help(w http.ResponseWriter, _ *http.Request) { plain(w, h.commands()) }

func (h *Handler) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	var b strings.Builder
	b.WriteString("<!DOCTYPE html><title>detour admin</title><h1>detour " + html.EscapeString(h.opt.Version) + "</h1><ul>\n")
	for _, p := range h.sortedPaths() {
		name := html.EscapeString(p)
		if h.paths[p].post {
			name += " (POST)"
		} else {
			name = `<a href="` + name + `">` + name + `</a>`
		}
		b.WriteString("<li>" + name + ": " + html.EscapeString(h.paths[p].help) + "\n")
	}
	b.WriteString("</ul>\n")
	_, _ = io.WriteString(w, b.String())
}

func (h *Handler) ready(w http.ResponseWriter, _ *http.Request) {
	s := h.state.ServerState()
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	if s != adminv3.ServerInfo_LIVE {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, s.String()+"\n")
}

// node is the configured node with detour's own name and version, and with the command line in its metadata, where
// detour ps looks for it.
func (h *Handler) node() *corev3.Node {
	n := &corev3.Node{}
	if h.opt.Node != nil {
		n = proto.Clone(h.opt.Node).(*corev3.Node)
	}
	n.UserAgentName = "detour"
	n.UserAgentVersionType = buildVersion(h.opt.Version)
	if n.Metadata == nil {
		n.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	}
	args := make([]*structpb.Value, 0, len(h.opt.Args))
	for i, a := range h.opt.Args {
		args = append(args, structpb.NewStringValue(strings.ToValidUTF8(a, "\ufffd")))
		if i > 0 && h.opt.Args[i-1] == "--" {
			break // the arguments of run's COMMAND may hold secrets, and dumps are pasted into bug reports
		}
	}
	n.Metadata.Fields["DETOUR_ARGS"] = structpb.NewListValue(&structpb.ListValue{Values: args})
	n.Metadata.Fields["DETOUR_STARTED"] = structpb.NewStringValue(h.start.UTC().Format(time.RFC3339)) // an uptime's second drifts
	return n
}

// buildVersion gives a version such as v1.2.3-rc1 as tools for Envoy read it; one that has no numbers is 0.0.0.
func buildVersion(v string) *corev3.Node_UserAgentBuildVersion {
	var n typev3.SemanticVersion
	_, _ = fmt.Sscanf(strings.TrimPrefix(v, "v"), "%d.%d.%d", &n.MajorNumber, &n.MinorNumber, &n.Patch)
	return &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
		Version:  &n,
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"version": structpb.NewStringValue(v)}},
	}}
}

func (h *Handler) serverInfo(w http.ResponseWriter, _ *http.Request) {
	up := durationpb.New(time.Since(h.start).Truncate(time.Second))
	writeProto(w, &adminv3.ServerInfo{
		Version:            h.opt.Version,
		State:              h.state.ServerState(),
		UptimeCurrentEpoch: up,
		UptimeAllEpochs:    up,
		HotRestartVersion:  "disabled",
		CommandLineOptions: &adminv3.CommandLineOptions{
			Concurrency:        uint32(runtime.GOMAXPROCS(0)),
			LogLevel:           h.level(),
			DisableHotRestart:  true,
			Mode:               adminv3.CommandLineOptions_Serve,
			FileFlushInterval:  durationpb.New(100 * time.Millisecond), // the access log's
			DrainTime:          durationpb.New(0),
			ParentShutdownTime: durationpb.New(0),
		},
		Node: h.node(),
	}, true)
}

func (h *Handler) certs(w http.ResponseWriter, _ *http.Request) {
	writeProto(w, &adminv3.Certificates{}, true)
}

func (h *Handler) endpoints(w http.ResponseWriter, _ *http.Request) {
	hosts := h.state.Hosts()
	if hosts == nil {
		hosts = []Host{}
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	_ = e.Encode(map[string]any{"endpoints": hosts})
}

// levels are Envoy's log levels on slog's scale.
var levels = []struct {
	name  string
	level slog.Level
}{
	{"trace", -8}, {"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warning", slog.LevelWarn},
	{"error", slog.LevelError}, {"critical", 12}, {"off", 100},
}

// level names the present log level.
func (h *Handler) level() string {
	if h.opt.Level == nil {
		return "info"
	}
	now := h.opt.Level.Level()
	name := levels[0].name
	for _, l := range levels {
		if now >= l.level {
			name = l.name
		}
	}
	return name
}

// logging shows the level, or changes it by ?level= or Envoy's ?paths=detour:LEVEL.
func (h *Handler) logging(w http.ResponseWriter, r *http.Request) {
	want := r.URL.Query().Get("level")
	if p := r.URL.Query().Get("paths"); p != "" {
		_, want, _ = strings.Cut(p, ":")
	}
	if want == "warn" {
		want = "warning"
	}
	if want != "" && h.opt.Level != nil {
		ok := false
		for _, l := range levels {
			if l.name == want {
				h.opt.Level.Set(l.level)
				ok = true
			}
		}
		if !ok {
			fail(w, http.StatusBadRequest, "error: unknown logger level")
			return
		}
	}
	plain(w, "active loggers:\n  detour: "+h.level()+"\n\n")
}

func (h *Handler) drain(w http.ResponseWriter, _ *http.Request) {
	h.opt.Log.Info("draining, asked for by the admin API")
	h.state.Drain()
	plain(w, "OK\n")
}

func (h *Handler) quit(w http.ResponseWriter, _ *http.Request) {
	h.opt.Log.Info("exiting, asked for by the admin API")
	h.state.Quit()
	plain(w, "OK\n")
}

// statsQuery reads ?filter and ?usedonly; it answers the request itself when they are wrong.
func statsQuery(w http.ResponseWriter, r *http.Request) (stats.Query, bool) {
	q := stats.Query{UsedOnly: r.URL.Query().Has("usedonly")}
	f, ok := regexParam(w, r, "filter", "%s")
	q.Filter = f
	return q, ok
}

// regexParam compiles a parameter into wrap; nil if it is not given. It answers the request itself when it is no regular
// expression. Go's syntax is RE2's, as is Envoy's.
func regexParam(w http.ResponseWriter, r *http.Request, name, wrap string) (*regexp.Regexp, bool) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return nil, true
	}
	_, err := regexp.Compile(s)
	if err != nil {
		fail(w, http.StatusBadRequest, "Invalid re2 regex: "+quoted(strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
		return nil, false
	}
	re, err := regexp.Compile(fmt.Sprintf(wrap, s))
	if err != nil {
		fail(w, http.StatusBadRequest, "Invalid re2 regex: "+quoted(err.Error()))
		return nil, false
	}
	return re, true
}

func (h *Handler) stats(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Query().Get("format") {
	case "", "text", "html", "active-html":
		if q, ok := statsQuery(w, r); ok {
			w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
			h.wrote(h.opt.Stats.WriteText(w, q))
		}
	case "json":
		if q, ok := statsQuery(w, r); ok {
			w.Header().Set("Content-Type", "application/json")
			h.wrote(h.opt.Stats.WriteJSON(w, q))
		}
	case "prometheus":
		h.prometheus(w, r)
	default:
		fail(w, http.StatusBadRequest, "usage: /stats?format=(html|active-html|json|prometheus|text)\n")
	}
}

func (h *Handler) prometheus(w http.ResponseWriter, r *http.Request) {
	if q, ok := statsQuery(w, r); ok {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		h.wrote(h.opt.Stats.WritePrometheus(w, q))
	}
}

// wrote notes that an answer could not be given to its end; mostly the client has gone.
func (h *Handler) wrote(err error) {
	if err != nil {
		h.opt.Log.Debug("admin API: answer cut short", "error", err)
	}
}
