package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/analyze"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/dns"
)

func init() { register(newAnalyze) }

type analyzeFlags struct {
	groupFlags
	paths         []string
	allLocalities bool
	strict        bool
	resolve       bool
	connect       bool
	resolver      string
	output        string
	explain       string
}

func newAnalyze() *cobra.Command {
	f := &analyzeFlags{}
	c := &cobra.Command{
		Use:   "analyze -f PATH...",
		Short: "Say what is wrong with a configuration, and why a failover can never happen",
		Long: `analyze reads a configuration as proxy and run do, and says with the line and the reason what is
refused, and what will not do what its author thinks: a failover that can never happen, a
certificate that no endpoint can present, application errors that move traffic to another region.

Exit status: 0 when there are no errors (warnings and notes may be there), 1 when there are errors,
or warnings with --strict, 2 for wrong usage.`,
		Example: `  detour analyze -f config/ --locality us-east1
  detour analyze -f config/ --locality us-east1 --resolve --connect
  detour analyze -f config/ --all-localities -o sarif > detour.sarif
  detour analyze --explain DTR0103
  kubectl get se,dr,vs -A -o yaml | detour analyze -f - --all-localities`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	c.Flags().StringArrayVarP(&f.paths, "filename", "f", nil, "configuration `PATH`: a file, a directory, or - for standard input (repeatable)")
	f.add(c)
	c.Flags().BoolVar(&f.allLocalities, "all-localities", false, "try callers in every locality that an endpoint names, and in none")
	c.Flags().BoolVar(&f.strict, "strict", false, "warnings count as errors; notes never do")
	c.Flags().BoolVar(&f.resolve, "resolve", false, "look the endpoints' names up in DNS")
	c.Flags().BoolVar(&f.connect, "connect", false, "connect to every endpoint, and look at the certificates of those that must speak TLS")
	c.Flags().StringVar(&f.resolver, "resolver", "", "DNS server that --resolve and --connect ask, `ADDR`[:PORT] (default the system's)")
	c.Flags().StringVarP(&f.output, "output", "o", "text", "text, json or sarif")
	complete(c, "output", "text", "json", "sarif")
	c.Flags().StringVar(&f.explain, "explain", "", "print the page of a `CODE`, as DTR0103, and do nothing else")
	completeWith(c, "explain", completeCodes)
	return c
}

func (f *analyzeFlags) run(c *cobra.Command) error {
	if f.explain != "" {
		return explain(c, f.explain)
	}
	switch {
	case len(f.paths) == 0:
		return usagef("analyze wants -f PATH (see 'detour analyze --help')")
	case !knownOutput(f.output):
		return usagef("-o %q: text, json or sarif", f.output)
	case f.allLocalities && c.Flags().Changed("locality"):
		return usagef("--locality names one caller and --all-localities tries all; give one of the two")
	}
	network, err := f.network()
	if err != nil {
		return usagef("%v", err)
	}
	set, issues, err := pipeline.LoadOnce(f.paths, c.InOrStdin())
	if err != nil {
		return &ExitError{Status: ExitFailed, Err: err}
	}
	mesh, found := f.judgedMesh()
	issues = append(issues, found...)
	if !slices.ContainsFunc(found, func(i config.Issue) bool { return i.Severity == config.Error }) {
		set = set.WithMesh(mesh)
	}
	res := analyze.Run(c.Context(), set, issues, analyze.Options{
		Group: f.group(), AllLocalities: f.allLocalities, Resolve: f.resolve, Connect: f.connect, Files: true, Network: network,
	})
	switch f.output {
	case "json":
		err = printJSON(c.OutOrStdout(), res.Issues)
	case "sarif":
		err = printSARIF(c.OutOrStdout(), res.Issues, version())
	default:
		err = printText(c.OutOrStdout(), res.Issues)
	}
	if err != nil {
		return err
	}
	errs, warnings := res.Count(config.Error), res.Count(config.Warning)
	ignored := ""
	if res.Ignored > 0 {
		ignored = "; " + count(res.Ignored, "object") + " left out, which say nothing about hosts declared here"
	}
	fmt.Fprintf(c.ErrOrStderr(), "detour analyze: %s, %s, %s in %s and %s%s\n",
		count(errs, "error"), count(warnings, "warning"), count(res.Count(config.Note), "note"), count(set.Len(), "object"), count(res.Hosts, "host"), ignored)
	if errs > 0 || f.strict && warnings > 0 {
		return &ExitError{Status: ExitFailed}
	}
	return nil
}

// network is how names are looked up: as proxy and run do.
func (f *analyzeFlags) network() (analyze.Network, error) {
	if !f.resolve && !f.connect {
		return analyze.Network{}, nil
	}
	var opt dns.Options
	if f.resolver != "" {
		server, err := dns.ParseServer(f.resolver)
		if err != nil {
			return analyze.Network{}, fmt.Errorf("--resolver: %w", err)
		}
		opt.Server = server
	}
	r := dns.New(opt)
	return analyze.Network{LookupNetIP: func(ctx context.Context, _, host string) ([]netip.Addr, error) {
		a := r.Lookup(ctx, host, dns.All)
		return a.Addrs, a.Err
	}}, nil
}

// explain prints the page of a code, which may be written in small letters, and without DTR or zeroes before its number.
func explain(c *cobra.Command, word string) error {
	code := strings.ToUpper(strings.TrimSpace(word))
	if n := strings.TrimPrefix(code, "DTR"); n != "" && len(n) <= 4 && strings.Trim(n, "0123456789") == "" {
		code = "DTR" + strings.Repeat("0", 4-len(n)) + n
	}
	if p, ok := analyze.Explain(code); ok {
		_, err := fmt.Fprint(c.OutOrStdout(), p.Markdown())
		return err
	}
	if title := analyze.Title(code); title != "" {
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s: %s. There is no page about it: its messages say all there is to know.\n", code, title)
		return err
	}
	for _, known := range analyze.AllCodes() {
		fmt.Fprintf(c.ErrOrStderr(), "%s  %s\n", known, analyze.Title(known))
	}
	return usagef("--explain %q: no such code; all there are stand above", word)
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func printText(w io.Writer, issues []config.Issue) error {
	for _, i := range issues {
		if _, err := fmt.Fprintln(w, i); err != nil {
			return err
		}
	}
	return nil
}

// issueJSON is one issue as programs read it.
type issueJSON struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Severity string `json:"severity"`
	Code     string `json:"code"`
	Object   string `json:"object"` // "Kind namespace/name"; empty for a whole file
	Field    string `json:"field"`
	Message  string `json:"message"`
}

func printJSON(w io.Writer, issues []config.Issue) error {
	out := make([]issueJSON, 0, len(issues))
	for _, i := range issues {
		j := issueJSON{
			File: i.Origin.File, Line: i.Origin.Line, Column: i.Origin.Column,
			Severity: i.Severity.String(), Code: i.Code, Field: i.Field, Message: i.Message,
		}
		if i.Object != (config.Key{}) {
			j.Object = i.Object.String()
		}
		out = append(out, j)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}
