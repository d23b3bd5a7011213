package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

func init() { register(newTranslate) }

// groupFlags say who asks: the flags that translate and analyze have in common with proxy and run.
type groupFlags struct {
	locality   string
	labels     map[string]string
	namespace  string
	meshConfig string
}

func (g *groupFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&g.locality, "locality", os.Getenv("DETOUR_LOCALITY"), "the caller's `REGION/ZONE/SUBZONE` (default $DETOUR_LOCALITY)")
	c.Flags().StringToStringVar(&g.labels, "labels", nil, "the caller's labels, `k=v,...`")
	hideDefault(c, "labels")
	c.Flags().StringVar(&g.namespace, "namespace", "", "the caller's namespace (default \"default\")")
	c.Flags().StringVar(&g.meshConfig, "mesh-config", "", "Istio's MeshConfig, or the ConfigMap that holds it, in a `FILE`")
}

// hideDefault keeps help from showing the default of a flag that is a map, "[]".
func hideDefault(c *cobra.Command, name string) { c.Flags().Lookup(name).DefValue = "" }

// group gives the node group the flags describe.
func (g *groupFlags) group() xds.NodeGroup {
	return xds.NodeGroup{Locality: parseLocality(g.locality), Labels: g.labels, Namespace: g.namespace, IPv4: true}
}

// parseLocality reads REGION/ZONE/SUBZONE; nil when it names nothing.
func parseLocality(s string) *corev3.Locality {
	if s == "" {
		return nil
	}
	parts := append(strings.SplitN(s, "/", 3), "", "")
	return &corev3.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}

type translateFlags struct {
	groupFlags
	paths  []string
	proxy  string
	compat string
	kind   string
	output string

	// Of a bootstrap only.
	admin    string
	listen   string
	bind     map[string]string
	resolver string
}

func newTranslate() *cobra.Command {
	f := &translateFlags{}
	c := &cobra.Command{
		Use:   "translate -f PATH...",
		Short: "Print what a configuration becomes: Envoy's clusters, endpoints, listeners and routes",
		Long: `translate compiles ServiceEntries, DestinationRules and VirtualServices for one caller and prints
the result, which the embedded engine and real Envoys run, as one object {"clusters", "endpoints",
"listeners", "routes"} in proto JSON. With --compat istio it is what istiod would send instead.

With -o bootstrap it is a static configuration for Envoy, everything inline: "envoy -c FILE" then does
what proxy does, for connections that are redirected to --listen or made to an address of --bind.`,
		Example: `  detour translate -f config/ --locality us-east1
  detour translate -f config/ --locality us-east1 --type cds -o yaml
  detour translate -f config/ --proxy proxy.json --compat istio
  detour translate -f config/ -o bootstrap --bind 0.0.0.0_80=127.0.0.1:8080 > envoy.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	c.Flags().StringArrayVarP(&f.paths, "filename", "f", nil, "configuration `PATH`: a file, a directory, or - for standard input (repeatable)")
	f.add(c)
	c.Flags().StringVar(&f.proxy, "proxy", "", "read the caller from a JSON `FILE` {namespace, ip, labels, locality}")
	c.Flags().StringVar(&f.compat, "compat", "", "\"istio\": print istiod's own output, every deviation off")
	c.Flags().StringVar(&f.kind, "type", "all", "cds, eds, lds, rds or all")
	c.Flags().StringVarP(&f.output, "output", "o", "json", "json, yaml or bootstrap (what a real Envoy can be started with)")
	complete(c, "compat", "istio")
	complete(c, "type", "all", "cds", "eds", "lds", "rds")
	complete(c, "output", "json", "yaml", "bootstrap")
	c.Flags().StringVar(&f.admin, "admin", "127.0.0.1:15000", "`ADDR` of the bootstrap's admin API; empty: none")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:15001", "`ADDR` for redirected connections in the bootstrap; empty: none")
	c.Flags().StringToStringVar(&f.bind, "bind", nil, "bind a listener of the bootstrap, `NAME=ADDR,...`, so that it needs no redirection")
	hideDefault(c, "bind")
	c.Flags().StringVar(&f.resolver, "resolver", "", "DNS server that the bootstrap's names are looked up with, `ADDR`[:PORT] (default the system's)")
	return c
}

func (f *translateFlags) run(c *cobra.Command) error {
	if len(f.paths) == 0 {
		return usagef("translate wants -f PATH (see 'detour translate --help')")
	}
	if f.compat != "" && f.compat != "istio" {
		return usagef("--compat %q: only \"istio\" is known", f.compat)
	}
	if !slices.Contains([]string{"json", "yaml", "bootstrap"}, f.output) {
		return usagef("-o %q: json, yaml or bootstrap", f.output)
	}
	if err := f.bootstrapFlags(c); err != nil {
		return err
	}
	group := f.group()
	if f.proxy != "" {
		if f.locality != "" && c.Flags().Changed("locality") || len(f.labels) > 0 || f.namespace != "" {
			return usagef("--proxy says who asks, so --locality, --labels and --namespace can't be given beside it")
		}
		var err error
		if group, err = readProxy(f.proxy); err != nil {
			return &ExitError{Status: ExitFailed, Err: err}
		}
	}
	group.CompatIstio = f.compat == "istio"
	mesh, err := f.mesh(func(i config.Issue) { fmt.Fprintln(c.ErrOrStderr(), i) })
	if err != nil {
		return &ExitError{Status: ExitFailed, Err: err}
	}
	set, issues, err := loadOnce(f.paths, c.InOrStdin(), group.CompatIstio)
	if err != nil {
		return &ExitError{Status: ExitFailed, Err: err}
	}
	snap, found := translate.Translate(set.WithMesh(mesh), group)
	bad := false
	for _, i := range append(issues, found...) {
		bad = bad || i.Severity == config.Error
		fmt.Fprintln(c.ErrOrStderr(), i)
	}
	if bad {
		return &ExitError{Status: ExitFailed}
	}
	var out []byte
	if f.output == "bootstrap" {
		out, err = f.bootstrap(snap, group)
	} else {
		out, err = render(snap, f.kind, f.output)
	}
	if err != nil {
		return err
	}
	_, err = c.OutOrStdout().Write(out)
	return err
}

// readProxy reads the caller from the JSON form that a mesh's tools use. The address's family decides which addresses
// the caller can reach.
func readProxy(file string) (xds.NodeGroup, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return xds.NodeGroup{}, err
	}
	var p struct {
		Namespace string            `json:"namespace"`
		IP        string            `json:"ip"`
		Labels    map[string]string `json:"labels"`
		Locality  struct {
			Region  string `json:"region"`
			Zone    string `json:"zone"`
			Subzone string `json:"subzone"`
		} `json:"locality"`
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return xds.NodeGroup{}, fmt.Errorf("%s: %w", file, err)
	}
	g := xds.NodeGroup{Namespace: p.Namespace, Labels: p.Labels, IPv4: true}
	if p.IP != "" {
		ip, err := netip.ParseAddr(p.IP)
		if err != nil {
			return xds.NodeGroup{}, fmt.Errorf("%s: ip: %w", file, err)
		}
		g.IPv4, g.IPv6 = ip.Unmap().Is4(), ip.Unmap().Is6()
	}
	if l := p.Locality; l.Region+l.Zone+l.Subzone != "" {
		g.Locality = &corev3.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.Subzone}
	}
	return g, nil
}

// render prints the resources of one type, or all, in the shape DESIGN.md gives.
func render(s *xds.Snapshot, kind, format string) ([]byte, error) {
	all := map[string]struct {
		name string
		list []proto.Message
	}{
		"cds": {"clusters", messages(s.Clusters)},
		"eds": {"endpoints", messages(s.Endpoints)},
		"lds": {"listeners", messages(s.Listeners)},
		"rds": {"routes", messages(s.Routes)},
	}
	out := map[string][]json.RawMessage{}
	for k, t := range all {
		if kind != "all" && kind != k {
			continue
		}
		out[t.name] = []json.RawMessage{}
		for _, m := range t.list {
			j, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				return nil, err
			}
			out[t.name] = append(out[t.name], j)
		}
	}
	if len(out) == 0 {
		return nil, usagef("--type %q: cds, eds, lds, rds or all", kind)
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	if format == "yaml" {
		return yaml.JSONToYAML(raw)
	}
	var b bytes.Buffer
	// protojson varies its spacing on purpose from build to build; indenting anew makes equal input equal output.
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func messages[M proto.Message](list []M) []proto.Message {
	out := make([]proto.Message, len(list))
	for i, m := range list {
		out[i] = m
	}
	return out
}
