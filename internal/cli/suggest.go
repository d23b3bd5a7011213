package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"detour.dev/detour/internal/config"
)

// unknownCommand says that c has no subcommand of this name, and which one is nearest.
func unknownCommand(c *cobra.Command, name string) error {
	var words []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			words = append(append(words, sub.Name()), sub.Aliases...)
		}
	}
	return fmt.Errorf("unknown command %q for %q%s", name, c.CommandPath(), config.DidYouMean(name, words))
}

// flagError says what is wrong with the flags given to c, with the nearest flag for one that c has not. A verb mistyped
// before flags of its own is an unknown flag to cobra; it is the verb that is wrong.
func flagError(c *cobra.Command, err error) error {
	if args := c.Flags().Args(); len(args) > 0 && c.HasAvailableSubCommands() {
		return unknownCommand(c, args[0])
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	name := unknown.GetSpecifiedName()
	if s := unknown.GetSpecifiedShortnames(); len(s) > 2 { // -locality
		name = s
	}
	if len(name) < 3 {
		return err
	}
	var words []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			words = append(words, "--"+f.Name)
		}
	})
	return fmt.Errorf("%w%s", err, config.DidYouMean("--"+name, words))
}
