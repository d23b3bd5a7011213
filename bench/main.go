//go:build linux

// Command bench measures detour beside HAProxy, nginx and Envoy: the same work, the same machine, in turns.
//
//	go run ./bench                       all rows; writes bench/results.json, bench/results.md, docs/performance.md and plots
//	go run ./bench --quick               a few rows, under a minute, writes nothing
//	go run ./bench --rows keepalive-1k   one row, merged into bench/results.json
//
// bench/install installs the others. The proxy has one CPU, load and upstream another one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"detour.dev/detour/bench/failure"
)

type options struct {
	rows, contenders, cpus string
	detour, base, log, out string
	rounds                 int
	duration, warmup       time.Duration
	quick, wrk, publish    bool
}

func main() {
	if failure.Process(os.Args[1:]) {
		return
	}
	if len(os.Args) > 1 && os.Args[1] == loadVerb {
		if err := loadProcess(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func flags(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.rows, "rows", "", "`NAMES` of rows, with commas; all if empty; 'list' shows them")
	f.StringVar(&o.contenders, "contenders", "", "`NAMES` of contenders, with commas; all if empty. Then results are only shown, unless --out is given")
	f.StringVar(&o.cpus, "cpus", "0,1", "the proxy's CPU, and that of load and upstream")
	f.BoolVar(&o.publish, "publish", false, "measure nothing: write table and plots again, from bench/results.json")
	f.StringVar(&o.detour, "detour", "", "`PATH` of a built detour (default: builds ./cmd/detour)")
	f.StringVar(&o.base, "detour2", "", "`PATH` of another detour, measured too as detour-base")
	f.StringVar(&o.log, "log", "both", "access log: off, on or both")
	f.StringVar(&o.out, "out", "", "`FOLDER` of the repository that results are written to (default: the one of the working directory)")
	f.IntVar(&o.rounds, "rounds", 5, "rounds of every row")
	f.DurationVar(&o.duration, "duration", 3*time.Second, "of each round")
	f.DurationVar(&o.warmup, "warmup", 300*time.Millisecond, "before each round")
	f.BoolVar(&o.quick, "quick", false, "few rows, three short rounds, nothing is written")
	f.BoolVar(&o.wrk, "wrk", false, "make the load of closed loops of GETs with wrk, as a cross-check; nothing is written")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q", f.Arg(0))
	}
	if o.quick {
		o.rounds, o.duration, o.warmup, o.log = 3, 500*time.Millisecond, 100*time.Millisecond, "off"
	}
	if !slices.Contains([]string{"off", "on", "both"}, o.log) {
		return o, fmt.Errorf("--log %q: not one of off, on, both", o.log)
	}
	if o.rounds < 1 || o.duration <= 0 {
		return o, errors.New("--rounds and --duration must be above 0")
	}
	return o, nil
}

// pick gives the rows that were asked for.
func (o options) pick() ([]row, error) {
	sortRows()
	if o.rows == "" {
		return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return o.quick && !r.Quick }), nil
	}
	var out []row
	for _, name := range strings.Split(o.rows, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no row %q (--rows list shows them)", name)
		}
		out = append(out, rows[i])
	}
	return out, nil
}

// writes says whether results are kept: only of complete runs, since a ratio needs both in the same run.
func (o options) writes() bool {
	return o.out != "" || o.contenders == "" && o.base == "" && !o.quick && !o.wrk && o.log == "both"
}

func run(args []string) error {
	o, err := flags(args)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if o.rows == "list" {
		sortRows()
		for _, r := range rows {
			fmt.Printf("%-18s %s\n", r.Name, r.Title)
		}
		return nil
	}
	if o.publish {
		all, err := readResults(filepath.Join(o.root(), "bench", "results.json"))
		if err != nil {
			return err
		}
		return publish(o.root(), all)
	}
	picked, err := o.pick()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	h, err := newHarness(o)
	if err != nil {
		return err
	}
	defer h.close()
	if err := h.startUpstream(ctx); err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	return h.all(ctx, picked, commandLine(args))
}

// commandLine is what results are recorded with. Folders are left out: they say nothing about the figures.
func commandLine(args []string) string {
	out := []string{"go run ./bench"}
	for _, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok {
			a = name + "=" + filepath.Base(value)
		} else if strings.Contains(a, "/") {
			a = filepath.Base(a)
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// all measures rows and writes what there is after each of them, so that an interrupted run is not lost.
func (h *harness) all(ctx context.Context, picked []row, command string) error {
	out := h.opts.root()
	file := filepath.Join(out, "bench", "results.json")
	var failed []string
	for _, r := range picked {
		res, err := h.measure(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
		res.Command = command
		for _, e := range res.Errors {
			failed = append(failed, r.Name+": "+e)
		}
		fmt.Print(text(r, res))
		if !h.opts.writes() {
			continue
		}
		all, err := readResults(file)
		if err != nil {
			return err
		}
		all.Rows[r.Name] = res
		if err := all.write(file); err != nil {
			return err
		}
		if err := publish(out, all); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	return nil
}

// root is the folder of the repository: --out, else the nearest one with go.mod from the working directory upwards.
func (o options) root() string {
	if o.out != "" {
		return o.out
	}
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return "."
}

// subjects are the contenders of a row.
func (h *harness) subjects(r row) []string {
	all := []string{detour, haproxy, nginx, envoy}
	if h.opts.base != "" {
		all = slices.Insert(all, 1, base)
	}
	return slices.DeleteFunc(all, func(c string) bool {
		like := c
		if c == base {
			like = detour
		}
		return h.opts.contenders != "" && c != base && !slices.Contains(strings.Split(h.opts.contenders, ","), c) ||
			len(r.Contenders) > 0 && !slices.Contains(r.Contenders, like)
	})
}

// measure runs all rounds of a row: A B C D A B C D …
func (h *harness) measure(ctx context.Context, r row) (*rowResult, error) {
	rounds := max(h.opts.rounds, r.MinRounds)
	if r.MaxRounds > 0 {
		rounds = min(rounds, r.MaxRounds)
	}
	res := &rowResult{
		Date: time.Now().UTC().Format(time.RFC3339), Rounds: rounds, Duration: h.opts.duration.String(),
		Machine: thisMachine(), Versions: h.versions(),
	}
	if h.opts.log != "on" || !r.Log {
		var err error
		if res.Off, err = h.variant(ctx, r, rounds, false, res); err != nil {
			return nil, err
		}
	}
	if h.opts.log != "off" && r.Log {
		var err error
		if res.On, err = h.variant(ctx, r, rounds, true, res); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// variant measures a row with or without the access log. A contender that fails is left out of it, with its error.
func (h *harness) variant(ctx context.Context, r row, rounds int, log bool, res *rowResult) (figures, error) {
	out := figures{}
	sessions := map[string]session{}
	defer func() {
		for s := range maps.Values(sessions) {
			s.Close()
		}
	}()
	drop := func(c string, err error) {
		line := fmt.Sprintf("%s: %v", titles[c], err)
		if errors.Is(err, errOverload) {
			res.Notes = append(res.Notes, line)
		} else {
			res.Errors = append(res.Errors, line)
		}
		delete(out, c)
		if s := sessions[c]; s != nil {
			s.Close()
			delete(sessions, c)
		}
	}
	subjects := h.subjects(r)
	for _, c := range subjects {
		s, err := r.Start(ctx, h, subject{Contender: c, Log: log})
		if err != nil {
			drop(c, err)
			continue
		}
		sessions[c], out[c] = s, map[string][]float64{}
	}
	for range rounds {
		for _, c := range subjects {
			if sessions[c] == nil {
				continue
			}
			m, err := sessions[c].Round(ctx)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				drop(c, err)
				continue
			}
			for k, v := range m {
				out[c][k] = append(out[c][k], v)
			}
		}
	}
	return out, nil
}
