package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"detour.dev/detour/internal/config/analyze"
	"detour.dev/detour/internal/demo"
)

// complete lets a shell complete the values of a flag, which are all there are.
func complete(c *cobra.Command, flag string, values ...string) {
	completeWith(c, flag, func() []cobra.Completion { return values })
}

// completeWith is complete for values that are gathered only when a shell asks.
func completeWith(c *cobra.Command, flag string, values func() []cobra.Completion) {
	err := c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil { // no such flag, or twice
		panic(err)
	}
}

func completeCodes() []cobra.Completion {
	var out []cobra.Completion
	for _, code := range analyze.AllCodes() {
		out = append(out, cobra.CompletionWithDesc(code, analyze.Title(code)))
	}
	return out
}

// completeSteps completes the last step of a list with commas.
func completeSteps(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	var out []cobra.Completion
	for _, s := range demo.Steps() {
		out = append(out, cobra.CompletionWithDesc(before+s.ID, s.Title))
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// isCompletion tells whether a shell asks for completions.
func isCompletion(args []string) bool {
	return len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd)
}

// plainUsages takes away the backticks by which help finds the name of a flag's value: a shell shows them.
func plainUsages(c *cobra.Command) {
	plain := func(f *pflag.Flag) { f.Usage = strings.ReplaceAll(f.Usage, "`", "") }
	c.Flags().VisitAll(plain)
	c.PersistentFlags().VisitAll(plain)
	for _, sub := range c.Commands() {
		plainUsages(sub)
	}
}
