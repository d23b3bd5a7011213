package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"detour.dev/detour/internal/admin/proxyconfig"
)

func init() { register(newProxyConfig) }

// pcFlags are what the subcommands of proxy-config share.
type pcFlags struct {
	admin, file, output string
	pid                 int
	filter              proxyconfig.Filter
}

func newProxyConfig() *cobra.Command {
	f := &pcFlags{}
	c := &cobra.Command{
		Use:     "proxy-config",
		Aliases: []string{"pc"},
		Short:   "Show endpoints, clusters, routes and listeners of a running proxy",
		Long: `Show what a running proxy does, in istioctl's tables: a detour's, or any Envoy's, by its admin API, or by a
dump in a file. Without --admin, --pid or -f it asks the only detour that runs, else 127.0.0.1:15000.`,
		Example: `  detour pc endpoints
  detour pc ep -o wide --fqdn mydb.com
  detour pc clusters --admin 127.0.0.1:15000
  curl -s 127.0.0.1:15000/clusters?format=json | detour pc endpoints -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	p := c.PersistentFlags()
	p.StringVar(&f.admin, "admin", "", "admin API to ask: HOST:PORT or unix:PATH")
	p.IntVar(&f.pid, "pid", 0, "ask the detour with this process id (see 'detour ps')")
	p.StringVarP(&f.file, "file", "f", "", "read a dump from this file, - for standard input")
	p.StringVarP(&f.output, "output", "o", "", "short, wide (more columns for endpoints), json or yaml")
	p.StringVar(&f.filter.FQDN, "fqdn", "", "only what belongs to hosts that contain this")
	p.IntVar(&f.filter.Port, "port", 0, "only this port, a service's; of endpoints, as in istioctl, their own")
	p.StringVar(&f.filter.Cluster, "cluster", "", "only this cluster, whole; of routes, those that lead to it")
	complete(c, "output", "short", "wide", "json", "yaml")
	c.AddCommand(f.endpoints(), f.clusters(), f.routes(), f.listeners(), f.bootstrap(), f.all())
	return c
}

// verb makes a subcommand; show does its work once a source is found.
func (f *pcFlags) verb(use, alias, short, example, output string, show func(context.Context, *proxyconfig.Source, io.Writer) error) *cobra.Command {
	c := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: example,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.output == "" {
				f.output = output
			}
			switch f.output {
			case "short", "wide", "json", "yaml":
			default:
				return usagef("-o %q: must be short, wide, json or yaml", f.output)
			}
			s, err := f.source(c)
			if err != nil {
				return err
			}
			err = show(c.Context(), s, c.OutOrStdout())
			if proxyconfig.Refused(err) && s.Name() == proxyconfig.DefaultAdmin && f.admin == "" {
				return fmt.Errorf("no detour is running here, and nothing answers on %s; say where with --admin, --pid or -f",
					proxyconfig.DefaultAdmin)
			}
			return err
		},
	}
	if alias != "" {
		c.Aliases = []string{alias}
		if one := use[:len(use)-1]; one != alias { // istioctl's own name is the singular
			c.Aliases = append(c.Aliases, one)
		}
	}
	return c
}

// source finds out whom to ask.
func (f *pcFlags) source(c *cobra.Command) (*proxyconfig.Source, error) {
	given := 0
	for _, is := range []bool{f.admin != "", f.file != "", f.pid != 0} {
		if is {
			given++
		}
	}
	if given > 1 {
		return nil, usagef("only one of --admin, --pid and -f can be given")
	}
	if f.pid < 0 {
		return nil, usagef("--pid %d: is no process id", f.pid)
	}
	switch {
	case f.file == "-":
		return proxyconfig.FromFile("standard input", c.InOrStdin())
	case f.file != "":
		file, err := os.Open(f.file)
		if err != nil {
			var path *os.PathError
			if errors.As(err, &path) {
				err = path.Err
			}
			return nil, fmt.Errorf("%s: %w", f.file, err)
		}
		defer file.Close()
		return proxyconfig.FromFile(f.file, file)
	case f.admin != "":
		s, err := proxyconfig.FromAdmin(f.admin)
		if err != nil {
			return nil, usagef("--admin: %v", err)
		}
		return s, nil
	}
	return proxyconfig.Find(c.Context(), f.pid)
}

// raw prints JSON or YAML if that is wanted.
func (f *pcFlags) raw(w io.Writer, j json.RawMessage, err error) error {
	if err != nil {
		return err
	}
	return proxyconfig.WriteRaw(w, j, f.output == "yaml")
}

func (f *pcFlags) isRaw() bool { return f.output == "json" || f.output == "yaml" }

func (f *pcFlags) endpoints() *cobra.Command {
	c := f.verb("endpoints", "ep", "Show endpoints, their health and whether they are ejected", `  detour pc endpoints
  detour pc endpoints -o wide --cluster 'outbound|80||mydb.com'
  curl -s 127.0.0.1:15000/clusters?format=json | detour pc ep -f -`, "short",
		func(ctx context.Context, s *proxyconfig.Source, w io.Writer) error {
			e, err := s.Endpoints(ctx, f.output == "wide")
			if err != nil {
				return err
			}
			if f.isRaw() {
				j, err := proxyconfig.ToJSON(proxyconfig.FilterEndpoints(e.Clusters, f.filter))
				return f.raw(w, j, err)
			}
			return proxyconfig.WriteEndpoints(w, e, f.filter, f.output == "wide")
		})
	c.Flags().StringVar(&f.filter.Address, "address", "", "only endpoints with this address")
	c.Flags().StringVar(&f.filter.Status, "status", "", "only endpoints with this status, such as HEALTHY")
	return c
}

func (f *pcFlags) clusters() *cobra.Command {
	c := f.verb("clusters", "c", "Show clusters", `  detour pc clusters
  detour pc c --fqdn mydb.com -o yaml`, "short",
		func(ctx context.Context, s *proxyconfig.Source, w io.Writer) error {
			all, err := s.Clusters(ctx)
			if err != nil {
				return err
			}
			if f.isRaw() {
				j, err := proxyconfig.ToJSON(proxyconfig.FilterClusters(all, f.filter))
				return f.raw(w, j, err)
			}
			return proxyconfig.WriteClusters(w, all, f.filter)
		})
	c.Flags().StringVar(&f.filter.Subset, "subset", "", "only subsets that contain this")
	c.Flags().StringVar(&f.filter.Direction, "direction", "", "only this direction, such as outbound")
	return c
}

func (f *pcFlags) routes() *cobra.Command {
	c := f.verb("routes", "r", "Show routes", `  detour pc routes
  detour pc r --name 80 -o json`, "short",
		func(ctx context.Context, s *proxyconfig.Source, w io.Writer) error {
			all, err := s.Routes(ctx)
			if err != nil {
				return err
			}
			if f.isRaw() {
				j, err := proxyconfig.ToJSON(proxyconfig.FilterRoutes(all, f.filter))
				return f.raw(w, j, err)
			}
			return proxyconfig.WriteRoutes(w, all, f.filter)
		})
	c.Flags().StringVar(&f.filter.Name, "name", "", "only the route configuration of this name")
	return c
}

func (f *pcFlags) listeners() *cobra.Command {
	c := f.verb("listeners", "l", "Show listeners", `  detour pc listeners
  detour pc l --port 80`, "short",
		func(ctx context.Context, s *proxyconfig.Source, w io.Writer) error {
			all, err := s.Listeners(ctx)
			if err != nil {
				return err
			}
			if f.isRaw() {
				j, err := proxyconfig.ToJSON(proxyconfig.FilterListeners(all, f.filter))
				return f.raw(w, j, err)
			}
			return proxyconfig.WriteListeners(w, all, f.filter)
		})
	c.Flags().StringVar(&f.filter.Address, "address", "", "only listeners on this address")
	c.Flags().StringVar(&f.filter.Type, "type", "", "only listeners of this type: HTTP, TCP or HTTP+TCP")
	complete(c, "type", "HTTP", "TCP", "HTTP+TCP")
	return c
}

func (f *pcFlags) bootstrap() *cobra.Command {
	return f.verb("bootstrap", "", "Show the proxy's bootstrap", `  detour pc bootstrap
  detour pc bootstrap -o short`, "json",
		func(ctx context.Context, s *proxyconfig.Source, w io.Writer) error {
			d, err := s.Bootstrap(ctx)
			if err != nil {
				return err
			}
			if f.isRaw() {
				j, err := proxyconfig.One(d)
				return f.raw(w, j, err)
			}
			return proxyconfig.WriteBootstrap(w, d)
		})
}

func (f *pcFlags) all() *cobra.Command {
	return f.verb("all", "", "Show clusters, listeners, routes and endpoints", `  detour pc all
  detour pc all --fqdn mydb.com -o wide`, "short",
		func(ctx context.Context, s *proxyconfig.Source, w io.Writer) error {
			a, err := s.All(ctx, f.output == "wide")
			if err != nil {
				return err
			}
			if f.isRaw() {
				j, err := a.JSON(f.filter)
				return f.raw(w, j, err)
			}
			return a.Write(w, f.filter, f.output == "wide")
		})
}
