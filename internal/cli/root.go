// Package cli owns the command line: flags, help, exit statuses and what is printed where. Each verb has a file of its
// own that registers itself; what a verb does lives in the package that owns the matter.
package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// Exit statuses (DESIGN.md, "The command").
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// verbs are the constructors of all subcommands, in the order of the help text.
var verbs []func() *cobra.Command

// register adds a verb; called from init functions of the verbs' files.
func register(f func() *cobra.Command) { verbs = append(verbs, f) }

// ExitError carries an exit status out of a verb. A nil Err prints nothing.
type ExitError struct {
	Status int
	Err    error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// usagef makes an error that exits with ExitUsage.
func usagef(format string, args ...any) error {
	return &ExitError{Status: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// Main runs the command line and gives the process's exit status.
func Main(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	if isCompletion(args) {
		plainUsages(root)
	}
	err := root.Execute()
	if err == nil {
		return ExitOK
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		if exit.Err != nil {
			fmt.Fprintln(os.Stderr, "detour: "+exit.Err.Error())
		}
		return exit.Status
	}
	fmt.Fprintln(os.Stderr, "detour: "+err.Error())
	return ExitFailed
}

func newRoot() *cobra.Command {
	var printVersion bool
	root := &cobra.Command{
		Use:   "detour",
		Short: "Keep an application's calls to external services working",
		Long: `detour makes Istio's traffic API (ServiceEntry, DestinationRule, VirtualService) work without a mesh:
prefer the near region, notice a failing endpoint, move to another region and come back, with
nothing changed in the application.`,
		Example: `  detour demo
  detour run -f config/ --locality us-east1 -- curl -sS http://mydb.com
  detour analyze -f config/ --locality us-east1`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if printVersion {
				fmt.Fprintln(c.OutOrStdout(), versionLine())
				return nil
			}
			return c.Help()
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%v (see '%s --help')", flagError(c, err), c.CommandPath())
	})
	// Not cobra's own: that takes -v, which is run's, and its templates keep the linker from leaving out what is never called,
	// which is a third of the binary.
	root.Flags().BoolVar(&printVersion, "version", false, "print detour's version")
	for _, f := range verbs {
		root.AddCommand(f())
	}
	argumentsAreUsage(root)
	return root
}

// argumentsAreUsage makes wrong arguments exit as wrong flags do, in every command that does not say otherwise.
func argumentsAreUsage(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				switch {
				case len(args) > 0 && c.HasAvailableSubCommands():
					err = unknownCommand(c, args[0])
				case len(args) > 0 && c.Flags().Lookup("filename") != nil: // cobra takes it for a command's name
					err = fmt.Errorf("unexpected argument %q; a configuration is named with -f", args[0])
				}
				return usagef("%v (see '%s --help')", err, c.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		argumentsAreUsage(sub)
	}
}
