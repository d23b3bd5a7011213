//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"detour.dev/detour/bench/failure"
)

// The rows about failing endpoints count and bound; one round is all of a row's runs, and its figures are the worst of
// them, since a median would hide what was lost in one.
const (
	killRuns = 3
	// verdictWithin is when a POST that was written to a silent endpoint must be answered: its SYN goes out 150 ms after
	// the silence began and is given up 1.2 s later (DESIGN.md E3), then half a second.
	verdictWithin = 1850
)

func init() {
	register(row{
		Name: "killed", Title: "primary endpoint killed under 500 requests/s, three runs of 3,000 each", MaxRounds: 1,
		Metrics: []metric{
			{"get_failed", "GETs failed", "of 9,000"}, {"get_slowest", "slowest GET", "ms"},
			{"post_late", "POSTs failed that were not sent to it before", "of 9,000"}, {"post_failed", "POSTs failed", "of 9,000"},
			{"post_twice", "POSTs delivered twice", ""}, {"late", "load late by at most", "ms"},
		},
		Goals: []goal{{"get_failed", nil, 0}, {"get_slowest", nil, 50}, {"post_late", nil, 0}, {"post_twice", nil, 0}},
		Start: failing(killed),
	})
	var metrics []metric
	var goals []goal
	for _, d := range []struct{ name, title string }{{"to", "packets to it lost"}, {"from", "packets from it lost"}} {
		metrics = append(metrics,
			metric{d.name + "_get_failed", d.title + ": GETs failed", "of 11,000"}, metric{d.name + "_get_slowest", d.title + ": slowest GET", "ms"},
			metric{d.name + "_post_failed", d.title + ": POSTs failed", "of 11,000"},
			metric{d.name + "_post_other", d.title + ": POSTs failed otherwise than by 503 or 504", "of 11,000"},
			metric{d.name + "_post_slowest", d.title + ": slowest POST", "ms"}, metric{d.name + "_post_twice", d.title + ": POSTs delivered twice", ""})
		goals = append(goals, goal{d.name + "_get_failed", nil, 0}, goal{d.name + "_get_slowest", nil, 500}, goal{d.name + "_post_other", nil, 0},
			goal{d.name + "_post_slowest", nil, verdictWithin}, goal{d.name + "_post_twice", nil, 0})
	}
	register(row{
		Name: "dropped", Title: "primary endpoint's packets dropped under 1,000 requests/s, 11,000 requests", MaxRounds: 1,
		Metrics: append(metrics, metric{"late", "load late by at most", "ms"}), Goals: goals, Start: failing(dropped),
	})
}

// failing gives a row's Start: each run starts a proxy of its own.
func failing(round func(context.Context, *failureSession) (map[string]float64, error)) func(context.Context, *harness, subject) (session, error) {
	return func(_ context.Context, h *harness, s subject) (session, error) {
		return &failureSession{h: h, contender: s.Contender, round: round}, nil
	}
}

type failureSession struct {
	h         *harness
	contender string
	round     func(context.Context, *failureSession) (map[string]float64, error)
}

func (s *failureSession) Round(ctx context.Context) (map[string]float64, error) {
	return s.round(ctx, s)
}
func (s *failureSession) Close() {}

// run measures one failure with a fresh proxy.
func (s *failureSession) run(ctx context.Context, c failure.Config) (failure.Result, error) {
	var err error
	if c.Dir, err = os.MkdirTemp(s.h.dir, "failure-"); err != nil {
		return failure.Result{}, err
	}
	p := params{work: work{Title: "a primary endpoint that fails", Primary: failure.PrimaryPort, Backup: failure.BackupPort, Threads: 1},
		Dir: c.Dir, Port: failure.ProxyPort, Admin: failure.AdminPort, Files: s.h.files, MaxConn: s.h.maxConn}
	if c.Proxy, err = s.h.command(s.contender, &p); err != nil {
		return failure.Result{}, err
	}
	c.ProxyCPU, c.Host, c.Think, c.Patience = s.h.proxyCPU, host, 5*time.Millisecond, 12*time.Second
	r, err := failure.Measure(ctx, s.h.loadCPU, c)
	if err == nil {
		fmt.Printf("%s, %s %s: %+v\n", s.contender, c.Fault, c.Method, r)
	}
	return r, err
}

func killed(ctx context.Context, s *failureSession) (map[string]float64, error) {
	m := map[string]float64{}
	for range killRuns {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r, err := s.run(ctx, failure.Config{Fault: failure.Kill, Method: method, Rate: 500, Requests: 3000, After: 2 * time.Second})
			if err != nil {
				return nil, err
			}
			m["late"] = max(m["late"], ms(r.Late))
			if method == http.MethodGet {
				m["get_failed"] += float64(r.Failed)
				m["get_slowest"] = max(m["get_slowest"], ms(r.Slowest))
				continue
			}
			m["post_failed"] += float64(r.Failed)
			m["post_late"] += float64(r.FailedLate)
			m["post_twice"] += float64(r.Twice)
		}
	}
	return m, nil
}

func dropped(ctx context.Context, s *failureSession) (map[string]float64, error) {
	m := map[string]float64{}
	for _, f := range []failure.Fault{failure.DropTo, failure.DropFrom} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r, err := s.run(ctx, failure.Config{Fault: f, Method: method, Rate: 1000, Requests: 11000, After: 2 * time.Second})
			if err != nil {
				return nil, err
			}
			m["late"] = max(m["late"], ms(r.Late))
			if method == http.MethodGet {
				m[string(f)+"_get_failed"], m[string(f)+"_get_slowest"] = float64(r.Failed), ms(r.Slowest)
				continue
			}
			m[string(f)+"_post_failed"], m[string(f)+"_post_slowest"] = float64(r.Failed), ms(r.Slowest)
			m[string(f)+"_post_other"] = float64(r.Failed - r.Statuses[503] - r.Statuses[504])
			m[string(f)+"_post_twice"] = float64(r.Twice)
		}
	}
	return m, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
