package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"detour.dev/detour/internal/app"
	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/source/dir"
	"detour.dev/detour/internal/dataplane/accesslog"
	"detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/stats"
	"detour.dev/detour/internal/xds"
)

func init() { register(newProxy) }

// drainTime is how long a stopping proxy waits for connections to end; a second signal ends the wait.
const drainTime = 30 * time.Second

type proxyFlags struct {
	groupFlags
	paths     []string
	listen    string
	httpProxy string
	dns       string
	admin     string
	resolver  string
	policy    string
	compat    string
	accessLog string
	logFormat string
	logLevel  string
	stateFile string
	keepGoing bool
	workers   int
	policySet bool
	drain     time.Duration
}

func newProxy() *cobra.Command {
	f := &proxyFlags{}
	c := &cobra.Command{
		Use:   "proxy -f PATH...",
		Short: "Serve applications as a daemon",
		Long: `proxy serves a machine or a container: connections that are redirected to --listen (iptables or nftables
REDIRECT), an HTTP forward proxy, a DNS server that knows the configuration's hosts, and an admin API in
Envoy's shapes. The configuration is read again whenever its files change.

The forward proxy takes absolute-form requests, CONNECT, and plain requests routed by their Host. It serves
declared hosts only, unless --outbound-policy allow-any is given. An empty address turns a listener off.

SIGTERM or SIGINT drains: no new connections, requests under way finish, at most --drain-time long; a second
one ends at once. The exit status is 0 then, 1 when the start failed, 2 when it was called wrongly.`,
		Example: `  detour proxy -f config/ --locality us-east1
  curl -H 'Host: mydb.com' http://127.0.0.1:15080/
  http_proxy=http://127.0.0.1:15080 curl http://mydb.com/
  detour pc endpoints --admin 127.0.0.1:15000`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.policySet = c.Flags().Changed("outbound-policy")
			return f.run(c)
		},
	}
	fl := c.Flags()
	fl.StringArrayVarP(&f.paths, "filename", "f", nil, "configuration `PATH`: a file, a directory, or - for standard input (repeatable)")
	f.add(c)
	fl.StringVar(&f.listen, "listen", "127.0.0.1:15001", "`ADDR` for redirected connections")
	fl.StringVar(&f.httpProxy, "http-proxy", "127.0.0.1:15080", "`ADDR` of the HTTP forward proxy")
	fl.StringVar(&f.dns, "dns", "127.0.0.1:15053", "`ADDR` of the DNS server, UDP and TCP")
	fl.StringVar(&f.admin, "admin", "127.0.0.1:15000", "`ADDR` of the admin API, or unix:PATH")
	fl.StringVar(&f.resolver, "resolver", "", "DNS server that endpoint names are looked up with, `ADDR`[:PORT] (default the system's)")
	fl.StringVar(&f.policy, "outbound-policy", "allow-any", "`POLICY` for destinations that nothing declares: allow-any or registry-only")
	fl.BoolVar(&f.keepGoing, "keep-going", false, "start in spite of errors in the configuration, with what is good")
	fl.StringVar(&f.compat, "compat", "", "`envoy`: do without what an Envoy can't do, for comparison")
	fl.StringVar(&f.accessLog, "access-log", "/dev/stdout", "`FILE` for the access log; empty: none")
	fl.StringVar(&f.logFormat, "access-log-format", "text", "`FORMAT` of the access log: text (Envoy's default format) or json")
	fl.StringVar(&f.logLevel, "log-level", "info", "`LEVEL` of the log on standard error: debug, info, warn or error")
	fl.StringVar(&f.stateFile, "state-file", pipeline.DefaultStateFile(), "`FILE` that remembers allocated addresses; empty: none")
	complete(c, "outbound-policy", "allow-any", "registry-only")
	complete(c, "compat", "envoy")
	complete(c, "access-log-format", "text", "json")
	complete(c, "log-level", "debug", "info", "warn", "error")
	fl.IntVar(&f.workers, "concurrency", runtime.GOMAXPROCS(0), "number of event loops")
	fl.DurationVar(&f.drain, "drain-time", drainTime, "how long to wait for connections to end when stopping")
	return c
}

// policy reads an outbound policy in either spelling.
func parsePolicy(s string) (registryOnly bool, err error) {
	switch strings.ToLower(strings.ReplaceAll(s, "_", "-")) {
	case "allow-any":
		return false, nil
	case "registry-only":
		return true, nil
	}
	return false, fmt.Errorf("--outbound-policy %q: not one of allow-any, registry-only", s)
}

func (f *proxyFlags) run(c *cobra.Command) (err error) {
	if len(f.paths) == 0 {
		return usagef("no configuration: -f PATH is needed (see 'detour proxy --help')")
	}
	cfg, err := f.config(c)
	if err != nil {
		return usagef("%w (see 'detour proxy --help')", err)
	}
	if f.locality == "" {
		cfg.Log.Warn("no --locality and no DETOUR_LOCALITY: no endpoint counts as near")
	}
	closeLog, err := f.openAccessLog(cfg)
	if err != nil {
		return err
	}
	defer closeLog()
	bound, err := f.bind(cfg)
	if err != nil {
		cfg.CloseSockets()
		return err
	}
	a := app.New(*cfg)
	defer obey(a, cfg.Log)()
	err = a.Run(context.Background(), func() { cfg.Log.Info("serving", bound...) })
	if errors.Is(err, app.ErrStopped) {
		return nil // as it was told
	}
	return configError(err, "; --keep-going starts with what is good")
}

// obey makes signals stop the process: the first drains, the second ends at once, the third is the system's. SIGHUP, by
// which daemons are told to read their configuration again, does nothing, since that is read whenever it changes. A log
// whose reader has gone must not end the process, so SIGPIPE does nothing either.
func obey(a *app.App, log *slog.Logger) (undo func()) {
	signals, done := make(chan os.Signal, 8), make(chan struct{})
	stopping := []os.Signal{syscall.SIGTERM}
	if !signal.Ignored(os.Interrupt) { // a shell's background job leaves ^C to others
		stopping = append(stopping, os.Interrupt)
	}
	signal.Notify(signals, append(stopping, syscall.SIGHUP, syscall.SIGPIPE)...)
	go func() {
		for times := 0; ; {
			select {
			case <-done:
				return
			case s := <-signals:
				switch s {
				case syscall.SIGPIPE:
				case syscall.SIGHUP:
					log.Info("hangup: nothing to do, the configuration is read whenever it changes")
				default:
					if times++; times == 2 {
						signal.Reset(stopping...)
					}
					a.Quit()
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// configError makes every error of a configuration a line of its own. hint says what can be done instead.
func configError(err error, hint string) error {
	var bad pipeline.Errors
	if !errors.As(err, &bad) {
		return err
	}
	for _, i := range bad {
		fmt.Fprintln(os.Stderr, i)
	}
	count := "1 error"
	if len(bad) != 1 {
		count = fmt.Sprintf("%d errors", len(bad))
	}
	return &ExitError{Status: ExitFailed, Err: fmt.Errorf("%s in the configuration%s", count, hint)}
}

func (f *proxyFlags) config(c *cobra.Command) (*app.Config, error) {
	mesh, err := f.mesh(func(i config.Issue) { fmt.Fprintln(c.ErrOrStderr(), i) })
	if err != nil {
		return nil, err
	}
	registryOnly, err := outboundPolicy(f.policy, f.policySet, mesh)
	if err != nil {
		return nil, err
	}
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: not one of debug, info, warn, error", f.logLevel)
	}
	if f.compat != "" && f.compat != "envoy" {
		return nil, fmt.Errorf("--compat %q: only envoy is known here", f.compat)
	}
	if f.workers < 1 || f.workers > 256 {
		return nil, fmt.Errorf("--concurrency %d: not in 1 to 256", f.workers)
	}
	if f.drain < 0 {
		return nil, fmt.Errorf("--drain-time %s: less than nothing", f.drain)
	}
	if !slices.Contains([]string{"text", "json"}, f.logFormat) {
		return nil, fmt.Errorf("--access-log-format %q: not one of text, json", f.logFormat)
	}
	cfg := &app.Config{
		Source: dir.New(f.paths, dir.Options{Stdin: c.InOrStdin()}), Group: f.nodeGroup(registryOnly), Mesh: mesh, StateFile: f.stateFile,
		KeepGoing: f.keepGoing, ProxyDeclaredOnly: !f.policySet, Compat: f.compat == "envoy",
		Workers: f.workers, DNSOnHost: true, Stats: stats.NewRegistry(), Level: level,
		Log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Version: version(), Args: os.Args, DrainTime: f.drain,
	}
	if f.resolver != "" {
		if cfg.Resolver, err = dns.ParseServer(f.resolver); err != nil {
			return nil, fmt.Errorf("--resolver: %w", err)
		}
	}
	return cfg, nil
}

// nodeGroup gives the node group of a proxy on this host.
func (g *groupFlags) nodeGroup(registryOnly bool) xds.NodeGroup {
	group := g.group()
	group.IPv4, group.IPv6 = dns.HostFamilies()
	group.RegistryOnly = registryOnly
	return group
}

func (f *proxyFlags) openAccessLog(cfg *app.Config) (func(), error) {
	if f.accessLog == "" {
		return func() {}, nil
	}
	var out *os.File
	switch f.accessLog { // not opened by name: that would have a position of its own, and fails on a socket
	case "/dev/stdout":
		out = os.Stdout
	case "/dev/stderr":
		out = os.Stderr
	default:
		var err error
		if out, err = os.OpenFile(f.accessLog, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644); err != nil {
			return nil, fmt.Errorf("--access-log: %w", err)
		}
	}
	format := accesslog.Text
	if f.logFormat == "json" {
		format = accesslog.JSON
	}
	l := accesslog.New(out, format, cfg.Stats.Detour())
	cfg.AccessLog = l.Log
	return func() {
		if err := l.Close(); err != nil {
			cfg.Log.Warn("the access log is not complete", "error", err)
		}
		if out != os.Stdout && out != os.Stderr {
			_ = out.Close()
		}
	}, nil
}
