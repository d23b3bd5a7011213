package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"detour.dev/detour/examples"
	"detour.dev/detour/internal/demo"
)

func init() { register(newDemo) }

type demoFlags struct {
	steps []string
	keep  string
	list  bool
}

func newDemo() *cobra.Command {
	f := &demoFlags{}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Watch an external service fail over, without a network",
		Long: `demo plays a walkthrough: an application asks for http://mydb.com, two regions can serve it, and one of
them fails in every way there is. The servers, their DNS and their network are stand-ins in a namespace
of the demo's own; the proxy, the configuration and the requests are real. It needs no network and no
root, and leaves nothing behind.

Each step shows the configuration, the command, what came back and 'detour pc endpoints', and checks
them. Exit status: 0 when every step shows what it should, else 1.

Step 3c is played only when asked for: it takes 80 s.`,
		Example: `  detour demo
  detour demo --step 3,3b
  detour demo --step 3c
  detour demo --keep ~/detour-demo`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Getenv(demo.Variable) != "" {
				return &ExitError{Status: demo.Inside(os.Stdout, os.Stderr)}
			}
			return f.run(c)
		},
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.steps, "step", nil, "play only these `STEPS` (repeatable, or a list with commas)")
	if err := c.RegisterFlagCompletionFunc("step", completeSteps); err != nil {
		panic(err)
	}
	fl.StringVar(&f.keep, "keep", "", "leave the configuration in `DIR`, to play with")
	fl.BoolVar(&f.list, "list", false, "list the steps")
	c.AddCommand(&cobra.Command{ // what the application asks with where there is no curl
		Use: "get URL", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return &ExitError{Status: demo.Get(c.Context(), os.Stdout, args[0])}
		},
	})
	return c
}

func (f *demoFlags) run(c *cobra.Command) error {
	if f.list {
		return listSteps(c.OutOrStdout())
	}
	ids, err := demo.Resolve(f.steps)
	if err != nil {
		return usagef("--step: %v", err)
	}
	if f.keep != "" {
		if err := keepExamples(f.keep); err != nil {
			return fmt.Errorf("--keep: %w", err)
		}
	}
	live := term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb"
	status, err := play(c.Context(), demo.Options{Steps: ids, Live: live, Color: live && os.Getenv("NO_COLOR") == ""})
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if status != 0 {
		return &ExitError{Status: status}
	}
	f.next()
	return nil
}

// play ends with the first signal that asks for it, with the status that a shell shows for one.
func play(ctx context.Context, o demo.Options) (int, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	got := make(chan syscall.Signal, 1)
	go func() {
		select {
		case s := <-signals:
			got <- s.(syscall.Signal)
			cancel(nil)
		case <-ctx.Done():
		}
	}()
	status, err := demo.Run(ctx, o)
	select {
	case s := <-got:
		if o.Color {
			fmt.Println("\x1b[0m")
		}
		return 128 + int(s), nil
	default:
		return status, err
	}
}

func listSteps(w io.Writer) error {
	for _, s := range demo.Steps() {
		note := ""
		if s.Slow {
			note = " (80 s; only when asked for)"
		}
		if _, err := fmt.Fprintf(w, "%-3s %s%s\n", s.ID, s.Title, note); err != nil {
			return err
		}
	}
	return nil
}

// keepExamples writes the examples to a directory that has none of them yet.
func keepExamples(dir string) error {
	return fs.WalkDir(examples.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(path))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := fs.ReadFile(examples.FS, path)
		if err != nil {
			return err
		}
		out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return errors.Join(err, out.Close())
	})
}

// next says where to go from here.
func (f *demoFlags) next() {
	if f.keep != "" {
		fmt.Printf(`
The configuration is in %[1]s. Where there is a network, the real endpoints answer:
  detour run -f %[1]s/dynamodb --locality us-east1 -- curl -sS http://mydb.com
  detour run -f %[1]s/dynamodb-us-east-down --locality us-east1 -v -- curl -sS http://mydb.com
Without one:
  detour analyze -f %[1]s/dynamodb --locality us-east1
  detour translate -f %[1]s/dynamodb --locality us-east1
`, f.keep)
		return
	}
	fmt.Println()
	if !slices.Contains(f.steps, "3c") {
		fmt.Println("Watch it come back by itself (80 s):    detour demo --step 3c")
	}
	fmt.Println("Keep the configuration to play with:    detour demo --keep DIR")
}
