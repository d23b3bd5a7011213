package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"detour.dev/detour/internal/admin/proxyconfig"
)

func init() { register(newPs) }

func newPs() *cobra.Command {
	return &cobra.Command{
		Use:   "ps",
		Short: "List the detours that run",
		Long: `List this user's running detours: process id, state, start, admin socket, command. What 'pc --pid' takes is
the process id; what curl --unix-socket takes is the socket.`,
		Example: "  detour ps",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := proxyconfig.Running(c.Context())
			if err != nil {
				return err
			}
			if len(all) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "detour: no detour is running")
				return nil
			}
			return proxyconfig.WriteProcesses(c.OutOrStdout(), all)
		},
	}
}
