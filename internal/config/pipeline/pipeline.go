// Package pipeline owns the one loop of the configuration: it takes what a source holds, decodes and validates it, keeps
// the last good version of each object, allocates addresses, has the result translated and hands the snapshot to a
// sink. Whatever it drops shows in its Status and in the log.
package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/xds"
)

// StandStill is how long a file must have stood unchanged before what is new in it, or what it lacks, is believed:
// a half-written file may parse (DESIGN.md, rule 4).
const StandStill = 100 * time.Millisecond

// Config says what a Pipeline works on.
type Config struct {
	Source source.Source
	// Translate compiles a Set; see package translate.
	Translate func(*config.Set, xds.NodeGroup) (*xds.Snapshot, []config.Issue)
	Group     xds.NodeGroup
	Mesh      *config.Mesh // nil: Istio's defaults
	Sink      xds.Sink
	// StateFile remembers allocated addresses; empty keeps them in memory. See DefaultStateFile.
	StateFile string
	Log       *slog.Logger // nil: slog.Default()
	// KeepGoing starts in spite of errors, with what is good.
	KeepGoing bool
}

// Status is what the pipeline thinks of the configuration at one moment.
type Status struct {
	// Issues are all current ones: of the files as they stand, of translation, and what the sink refused.
	Issues []config.Issue
	// Rejected counts the errors among them (the metric detour.config.rejected).
	Rejected int
	Set      *config.Set // in force; nil before the first
	Version  string      // of the snapshot in force
	Updated  time.Time   // when Set came into force
}

// Errors are the errors that kept a configuration from being loaded.
type Errors []config.Issue

// Error gives one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, issue := range e {
		lines[i] = issue.String()
	}
	return strings.Join(lines, "\n")
}

// Pipeline runs the loop. Load and Run are called once each, one after the other; Status at any time.
type Pipeline struct {
	cfg    Config
	store  *store
	vips   *allocator
	set    *config.Set // made last; nil before the first
	loaded bool

	mu     sync.Mutex // guards status
	status Status
}

// New makes a Pipeline; nothing is read before Load.
func New(cfg Config) *Pipeline {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Pipeline{cfg: cfg, store: newStore(), vips: newAllocator(cfg.StateFile)}
}

// Load reads everything once and puts it in force. Without KeepGoing it returns Errors, and puts nothing in force, when
// there is any.
func (p *Pipeline) Load(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.store.update(p.cfg.Source.Load(), time.Now())
	p.store.advance(time.Now(), true)
	if !p.cfg.KeepGoing {
		if bad := errorsOf(p.store.result().issues); len(bad) > 0 {
			return Errors(sortIssues(bad))
		}
	}
	set, issues := p.compile()
	snapshot, translated := p.cfg.Translate(set, p.cfg.Group)
	issues = append(issues, translated...)
	if bad := errorsOf(issues); len(bad) > 0 && !p.cfg.KeepGoing {
		return Errors(sortIssues(bad))
	}
	p.apply(set, snapshot, issues)
	if set.Len() == 0 {
		p.cfg.Log.Warn("the configuration is empty: its files hold no object that is served here")
	}
	return nil
}

// Run keeps the sink up to date until the context ends. It returns an error only where the source can't be watched.
func (p *Pipeline) Run(ctx context.Context) error {
	if !p.loaded {
		return errors.New("pipeline: Run before Load")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan source.Update)
	ended := make(chan error, 1)
	go func() { ended <- p.cfg.Source.Watch(ctx, updates) }()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return <-ended
		case err := <-ended:
			return err
		case u := <-updates:
			p.store.update(u, time.Now())
		case <-timer.C:
		}
		if p.store.advance(time.Now(), false) {
			set, issues := p.compile()
			snapshot, translated := p.cfg.Translate(set, p.cfg.Group)
			p.apply(set, snapshot, append(issues, translated...))
		}
		timer.Stop()
		if next, ok := p.store.nextDeadline(); ok {
			timer.Reset(time.Until(next))
		}
	}
}

// compile makes the Set of what is served now.
func (p *Pipeline) compile() (*config.Set, []config.Issue) {
	r := p.store.result()
	vips, issues := p.vips.assign(r.objects)
	if p.set == nil {
		p.set = config.NewSet(r.objects, vips, r.refused)
	} else {
		p.set = p.set.With(r.objects, vips, r.refused)
	}
	p.set = p.set.WithMesh(p.cfg.Mesh)
	return p.set, append(r.issues, issues...)
}

// apply hands the snapshot on, unless it is the one in force, and tells what changed.
func (p *Pipeline) apply(set *config.Set, snapshot *xds.Snapshot, issues []config.Issue) {
	p.mu.Lock()
	before := p.status
	p.mu.Unlock()
	version := before.Version
	if snapshot != nil && (snapshot.Version != before.Version || !p.loaded) {
		issues = append(issues, sinkIssues(p.cfg.Sink.Set(snapshot).Rejected, set, issues)...)
		version = snapshot.Version
	} else {
		for _, i := range before.Issues { // what the sink refused of this snapshot is still refused
			if i.Code == config.CodeSinkRejected {
				issues = append(issues, i)
			}
		}
	}
	p.loaded = true
	after := Status{Issues: sortIssues(issues), Rejected: len(errorsOf(issues)), Set: set, Version: version, Updated: time.Now()}
	p.mu.Lock()
	p.status = after
	p.mu.Unlock()
	p.log(before, after)
}

// Status gives the present state. The caller must not change what it points to.
func (p *Pipeline) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// log says once what is new: issues that came, errors that went, and the snapshot.
func (p *Pipeline) log(before, after Status) {
	known := map[config.Issue]bool{}
	for _, i := range before.Issues {
		known[i] = true
	}
	for _, i := range after.Issues {
		if known[i] {
			delete(known, i)
			continue
		}
		switch i.Severity {
		case config.Error:
			p.cfg.Log.Error("configuration", "issue", i.String())
		case config.Warning:
			p.cfg.Log.Warn("configuration", "issue", i.String())
		default:
			p.cfg.Log.Info("configuration", "issue", i.String())
		}
	}
	for _, i := range before.Issues {
		if known[i] && i.Severity == config.Error {
			p.cfg.Log.Info("configuration error is gone", "was", i.String())
		}
	}
	if before.Set != nil && before.Version != after.Version {
		p.cfg.Log.Info("configuration applied", "version", after.Version, "objects", after.Set.Len(), "rejected", after.Rejected)
	}
}

func errorsOf(issues []config.Issue) []config.Issue {
	var out []config.Issue
	for _, i := range issues {
		if i.Severity == config.Error {
			out = append(out, i)
		}
	}
	return out
}

// sortIssues orders by file and place, and drops what is said twice.
func sortIssues(issues []config.Issue) []config.Issue {
	slices.SortStableFunc(issues, func(a, b config.Issue) int {
		if c := strings.Compare(a.Origin.File, b.Origin.File); c != 0 {
			return c
		}
		if a.Origin.Line != b.Origin.Line {
			return a.Origin.Line - b.Origin.Line
		}
		return a.Origin.Column - b.Origin.Column
	})
	return slices.Compact(issues)
}
