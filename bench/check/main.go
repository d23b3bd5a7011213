// Command check compares the benchmarks of the hot paths in the working tree with those of an earlier commit.
//
//	go run ./bench/check             10 interleaved runs; fails on more allocations, and on a loss of time
//	go run ./bench/check --quick     allocations only, what cannot have changed is left out; under a minute
//	go run ./bench/check --base REV  compares with REV; else with HEAD, or with its parent where nothing is uncommitted
//
// A loss of time is a median more than 10 % above the base's that the Mann-Whitney U test finds significant (p < 0.05), as
// benchstat does. Where there is no earlier commit (a shallow clone) only the limits hold: no allocation on a hot path.
// Exit status: 0 fine, 1 something was lost, 2 it could not be measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// target is a package with benchmarks of a hot path.
type target struct {
	pkg   string // below internal/
	bench string // which of its benchmarks
	time  string // -test.benchtime
}

var targets = []target{
	{"dataplane/codec/http1", ".", "50ms"},
	{"dataplane/route", "^BenchmarkMatch$", "50ms"},
	{"dataplane/lb", "^BenchmarkPick$", "50ms"},
	{"dataplane/cluster", "^BenchmarkDone$", "50ms"},
	{"dataplane/upstream", "^BenchmarkPool$", "50ms"},
	{"dataplane/outlier", "^BenchmarkCount$", "50ms"},
	{"dataplane/event", "^BenchmarkTimer$", "50ms"},
	{"stats", "^Benchmark(Request|Counter|Histogram)$", "50ms"},
	{"dataplane", "^BenchmarkPlaneGET$", "20000x"}, // some are left over from its start: they must not show
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	f := flag.NewFlagSet("check", flag.ContinueOnError)
	base := f.String("base", os.Getenv("BASE"), "`REV` to compare with")
	quick := f.Bool("quick", false, "allocations only, few runs")
	runs := f.Int("runs", 10, "runs of each side")
	if err := f.Parse(args); err != nil || f.NArg() > 0 || *runs < 1 {
		return 2
	}
	began := time.Now()
	c := &comparison{quick: *quick, runs: *runs, same: map[string]bool{}}
	if c.quick {
		c.runs = 3
	}
	lost, err := c.do(ctx, *base)
	switch {
	case errors.Is(err, context.Canceled):
		return 2
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench/check:", err)
		return 2
	case lost:
		return 1
	}
	fmt.Printf("nothing lost (%.0f s)\n", time.Since(began).Seconds())
	return 0
}

// comparison is one run of the command.
type comparison struct {
	quick bool
	runs  int
	dir   string // temporary
	root  string // of the working tree
	old   string // of the base; empty: there is none
	rev   string
	same  map[string]bool // targets whose base was not measured: the same files
}

func (c *comparison) do(ctx context.Context, base string) (lost bool, err error) {
	if c.root, err = git(ctx, ".", "rev-parse", "--show-toplevel"); err != nil {
		return false, err
	}
	if c.dir, err = os.MkdirTemp("", "bench-check-"); err != nil {
		return false, err
	}
	defer os.RemoveAll(c.dir)
	if c.rev, err = c.baseline(ctx, base); err != nil {
		return false, err
	}
	if c.rev != "" {
		c.old = filepath.Join(c.dir, "base")
		if _, err := git(ctx, c.root, "worktree", "add", "--detach", "--force", c.old, c.rev); err != nil {
			return false, err
		}
		defer func() { // also when interrupted
			_, e := git(context.WithoutCancel(ctx), c.root, "worktree", "remove", "--force", c.old)
			err = errors.Join(err, e)
		}()
		fmt.Printf("the working tree against %.12s\n", c.rev)
	}
	before, after := samples{}, samples{}
	if err := c.measure(ctx, before, after); err != nil {
		return false, err
	}
	if len(after) == 0 {
		return false, errors.New("no benchmark ran")
	}
	return report(os.Stdout, judge(before, after, c.same, c.quick)), nil
}
