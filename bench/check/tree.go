package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func git(ctx context.Context, dir string, args ...string) (string, error) {
	return command(ctx, dir, "git", args...)
}

// command runs a program and gives its output without the last newline.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, errs.Bytes(), out)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// baseline is the commit to compare with; empty where there is none.
func (c *comparison) baseline(ctx context.Context, base string) (string, error) {
	if base != "" {
		return git(ctx, c.root, "rev-parse", "--verify", base+"^{commit}")
	}
	dirty, err := git(ctx, c.root, "status", "--porcelain")
	if err != nil {
		return "", err
	}
	if base = "HEAD"; dirty == "" {
		base = "HEAD~1"
	}
	rev, err := git(ctx, c.root, "rev-parse", "--verify", "--quiet", base+"^{commit}")
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil { // the first commit, or a shallow clone
		fmt.Printf("%s is not here (a shallow clone?): nothing to compare with, only the limits are checked\n", base)
		return "", nil
	}
	return rev, nil
}

// module stands among folders for go.mod and go.sum.
const module = "go.mod"

// changed gives the folders with files that differ from the base, relative to the root.
func (c *comparison) changed(ctx context.Context) (map[string]bool, error) {
	dirs := map[string]bool{}
	for _, args := range [][]string{{"diff", "--name-only", "--no-renames", c.rev}, {"ls-files", "--others", "--exclude-standard"}} {
		out, err := git(ctx, c.root, args...)
		if err != nil {
			return nil, err
		}
		for file := range strings.Lines(out) {
			file = strings.TrimSpace(file)
			dirs[filepath.Dir(file)] = true
			dirs[module] = dirs[module] || file == "go.mod" || file == "go.sum"
		}
	}
	return dirs, nil
}

// unchanged says whether a package's benchmarks are built of the same files on both sides: its own, those of every package that
// it needs, and go.mod.
func (c *comparison) unchanged(ctx context.Context, pkg string, changed map[string]bool) (bool, error) {
	if changed[module] {
		return false, nil
	}
	out, err := command(ctx, c.root, "go", "list", "-deps", "-test", "-f", "{{if not .Standard}}{{.Dir}}{{end}}", pkg)
	if err != nil {
		return false, err
	}
	for dir := range strings.Lines(out) {
		rel, err := filepath.Rel(c.root, strings.TrimSpace(dir))
		if err != nil {
			return false, err
		}
		if changed[rel] || changed[filepath.Join(rel, "testdata")] {
			return false, nil
		}
	}
	return true, nil
}

// build builds a package's test binary; empty where the tree has no such package, or no tests in it.
func (c *comparison) build(ctx context.Context, tree, side, pkg string) (string, error) {
	if _, err := os.Stat(filepath.Join(tree, pkg)); err != nil {
		return "", nil
	}
	bin := filepath.Join(c.dir, side+"-"+strings.ReplaceAll(filepath.ToSlash(pkg), "/", "-"))
	if _, err := command(ctx, tree, "go", "test", "-c", "-o", bin, "./"+pkg); err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err != nil {
		return "", nil
	}
	return bin, nil
}

// measure runs the benchmarks of all targets, both sides in turns.
func (c *comparison) measure(ctx context.Context, before, after samples) error {
	var changed map[string]bool
	if c.rev != "" {
		var err error
		if changed, err = c.changed(ctx); err != nil {
			return err
		}
	}
	for _, t := range targets {
		pkg := filepath.Join("internal", filepath.FromSlash(t.pkg))
		bin, err := c.build(ctx, c.root, "new", pkg)
		if err != nil {
			return err
		}
		if bin == "" {
			return fmt.Errorf("%s has no tests", pkg)
		}
		old, err := c.buildBase(ctx, t, pkg, changed)
		if err != nil {
			return err
		}
		if err := c.alternate(ctx, t, pkg, side{bin, c.root, after}, side{old, c.old, before}); err != nil {
			return err
		}
	}
	return nil
}

// alternate runs both sides in turns, each of them first as often as the other.
func (c *comparison) alternate(ctx context.Context, t target, pkg string, a, b side) error {
	for range c.runs {
		for _, s := range []side{a, b} {
			if s.bin == "" {
				continue
			}
			if err := s.bench(ctx, pkg, t); err != nil {
				return err
			}
		}
		a, b = b, a
	}
	return nil
}

// buildBase builds the base's side, unless the quick form knows that it is the same. A base that does not build any more (another
// Go, say) can't be compared with.
func (c *comparison) buildBase(ctx context.Context, t target, pkg string, changed map[string]bool) (string, error) {
	if c.rev == "" {
		return "", nil
	}
	if c.quick {
		same, err := c.unchanged(ctx, "./"+pkg, changed)
		if same || err != nil {
			c.same[t.pkg] = same
			return "", err
		}
	}
	bin, err := c.build(ctx, c.old, "old", pkg)
	if err != nil && ctx.Err() == nil {
		fmt.Printf("%s: the base does not build, nothing to compare with: %v\n", pkg, err)
		return "", nil
	}
	return bin, err
}

// side is one of the two binaries that are compared.
type side struct {
	bin, tree string
	into      samples
}

func (s side) bench(ctx context.Context, pkg string, t target) error {
	out, err := command(ctx, filepath.Join(s.tree, pkg), s.bin, "-test.run", "^$", "-test.bench", t.bench, "-test.benchtime", t.time,
		"-test.benchmem", "-test.timeout", "60s")
	if err != nil {
		return err
	}
	return s.into.read(t.pkg, strings.NewReader(out))
}
