package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"detour.dev/detour/internal/intercept"
	"detour.dev/detour/internal/intercept/netns"
)

func init() { register(newRun) }

// exitRun is the status of run's own failures, wrong usage among them: 1 and 2 are COMMAND's to give.
const exitRun = 125

// runFlags are the flags of run, after check.
type runFlags struct {
	groupFlags
	paths  []string
	policy string // "allow-any" or "registry-only"
	// policySet: the policy was asked for, and is not only the default.
	policySet bool
	via       string
	loopback  string
	publish   []string
	resolver  string
	verbose   bool

	publications []intercept.Publication
}

func newRun() *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run -f PATH... [flags] -- COMMAND [ARG...]",
		Short: "Run a command whose connections fail over",
		Long: `run starts COMMAND and carries its connections to the endpoints that the configuration names, the
nearest healthy ones first. Names that only the configuration knows resolve; everything else goes where
COMMAND sends it. It needs no root and changes nothing on the host.

COMMAND gets its own network namespace: every TCP connection and every DNS query of it and of all its
children is taken, whatever library they use. UDP other than DNS is refused at once, so that clients
fall back to TCP. Standard streams, signals, job control and exit status are COMMAND's own. Where there
are no such namespaces, http_proxy, https_proxy and no_proxy are set for COMMAND instead (--via).

127.0.0.1 and ::1 mean what COMMAND itself serves there, else the host's loopback.

Not captured: setuid programs (sudo, ping), abstract sockets, what COMMAND asks other daemons to do
(docker), DNS over TLS or HTTPS. Processes that COMMAND leaves behind lose the network when it ends.

Exit status: COMMAND's; 125 when run itself fails, 126 when COMMAND can't be executed, 127 when it is
not found.`,
		Example: `  detour run -f config/ --locality us-east1 -- curl -sS http://mydb.com
  detour run -f config/ --locality us-east1 -p 8080 -- ./server --port 8080
  detour run -f config/ --outbound-policy registry-only -- npm test
  detour run -f config/ --via environment -- python3 app.py`,
		RunE: func(c *cobra.Command, args []string) error {
			f.policySet = c.Flags().Changed("outbound-policy")
			if err := f.check(args); err != nil {
				return runError(fmt.Errorf("%w (see 'detour run --help')", err))
			}
			return f.run(c.Context(), args)
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return runError(fmt.Errorf("%w (see 'detour run --help')", flagError(c, err)))
	})
	fl := c.Flags()
	fl.SetInterspersed(false) // what comes after COMMAND is COMMAND's
	fl.StringArrayVarP(&f.paths, "filename", "f", nil, "configuration `PATH`: a file or a directory (repeatable)")
	f.add(c)
	fl.StringVar(&f.policy, "outbound-policy", "allow-any", "`POLICY` for destinations that nothing declares: allow-any or registry-only")
	fl.StringVar(&f.via, "via", "auto", "`WAY` in which COMMAND's connections are taken: auto, namespace or environment")
	fl.StringArrayVarP(&f.publish, "publish", "p", nil, "let the host in to a port that COMMAND serves: `[HOST:]PORT` or [HOST:]HOSTPORT:PORT (repeatable)")
	fl.StringVar(&f.loopback, "loopback", "host", "`PLACE` that loopback leads to when COMMAND does not serve the port: host or private (nowhere)")
	fl.StringVar(&f.resolver, "resolver", "", "DNS server that endpoint names are looked up with, `ADDR`[:PORT] (default the system's)")
	complete(c, "outbound-policy", "allow-any", "registry-only")
	complete(c, "via", "auto", "namespace", "environment")
	complete(c, "loopback", "host", "private")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "a line for each request: endpoint, priority, attempts")
	return c
}

func runError(err error) error { return &ExitError{Status: exitRun, Err: fmt.Errorf("run: %w", err)} }

// note prints one line for the user; COMMAND's own output is not ours to touch.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "detour: run: "+format+"\n", args...) }

func (f *runFlags) check(args []string) error {
	f.policy = strings.ToLower(strings.ReplaceAll(f.policy, "_", "-"))
	for _, w := range []struct {
		flag, value string
		allowed     []string
	}{
		{"outbound-policy", f.policy, []string{"allow-any", "registry-only"}},
		{"via", f.via, []string{"auto", "namespace", "environment"}},
		{"loopback", f.loopback, []string{"host", "private"}},
	} {
		if !slices.Contains(w.allowed, w.value) {
			return fmt.Errorf("--%s %q: not one of %s", w.flag, w.value, strings.Join(w.allowed, ", "))
		}
	}
	for _, p := range f.publish {
		pub, err := intercept.ParsePublication(p)
		if err != nil {
			return fmt.Errorf("-p: %w", err)
		}
		f.publications = append(f.publications, pub)
	}
	switch {
	case len(args) == 0:
		return errors.New("no COMMAND")
	case len(f.paths) == 0:
		return errors.New("no configuration: -f PATH is needed")
	case slices.Contains(f.paths, "-"):
		return errors.New("-f -: standard input is COMMAND's; give a file or a directory")
	}
	return nil
}

// run starts the proxy and COMMAND, in the order that its way of capturing asks for, and ends as COMMAND ends.
func (f *runFlags) run(ctx context.Context, command []string) error {
	env, inherited := intercept.CleanEnvironment(os.Environ())
	if len(inherited) > 0 {
		note("%s", intercept.InheritedLine(inherited))
	}
	if f.locality == "" {
		note("no --locality and no DETOUR_LOCALITY: no endpoint counts as near")
	}
	c, err := f.capture(ctx, command, env, inherited)
	if err != nil {
		return runError(err)
	}
	status, err := c.wait()
	c.close()
	var exec *netns.ExecError
	switch {
	case errors.As(err, &exec):
		return &ExitError{Status: exec.Status(), Err: fmt.Errorf("run: %w", err)}
	case err != nil:
		return runError(err)
	case status.Signal != 0:
		netns.DieAs(status)
	}
	return &ExitError{Status: status.Code}
}

// captured is COMMAND on its leash: the session and what serves it, to be closed in reverse.
type captured struct {
	session *netns.Session
	closers []func()
}

func (c *captured) close() {
	for _, f := range slices.Backward(c.closers) {
		f()
	}
	c.closers = nil
}

func (c *captured) wait() (netns.Status, error) {
	if err := c.session.Go(); err != nil {
		return netns.Status{}, err
	}
	netns.ReleaseStreams()
	return c.session.Wait(), nil
}

// capture prepares everything up to COMMAND's start.
func (f *runFlags) capture(ctx context.Context, command, env, inherited []string) (*captured, error) {
	if f.via != "environment" {
		c, err := f.inNamespace(ctx, command, env, inherited)
		if err == nil || f.via == "namespace" || !errors.Is(err, netns.ErrUnavailable) {
			return c, err
		}
		note("%v; http_proxy, https_proxy and no_proxy are set for the command instead", err)
	}
	return f.byEnvironment(ctx, command, env, inherited)
}

func (f *runFlags) inNamespace(ctx context.Context, command, env, inherited []string) (_ *captured, err error) {
	private := f.loopback == "private"
	s, err := netns.Start(ctx, netns.Options{Command: command, Env: env, PrivateLoopback: private})
	if err != nil {
		return nil, err
	}
	c := &captured{session: s}
	c.closers = append(c.closers, func() { _ = s.Close() })
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.loopback(private)
	for _, p := range f.publications {
		at, err := p.Publish(s.DialInside)
		if err != nil {
			return nil, fmt.Errorf("-p: %w", err)
		}
		c.closers = append(c.closers, func() { _ = at.Close() })
		if strings.HasSuffix(p.Listen, ":0") {
			note("%s leads to the command's port %d", at.Addr(), p.Port)
		}
	}
	proxy, err := runProxy(ctx, f, s, inherited)
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, func() { _ = proxy.Close() })
	return c, nil
}

func (c *captured) loopback(private bool) {
	if private {
		return
	}
	s := c.session
	if s.Queue < 0 {
		note("this kernel has no packet queue: the command does not reach the host's loopback")
		return
	}
	l := intercept.NewLoopback(intercept.LoopbackConfig{
		Queue:     s.Queue,
		Listeners: s.Loopback,
		Listening: s.Listening,
		FellThrough: func(to netip.AddrPort) {
			note("%s is the host's: the command does not listen there (--loopback private keeps it inside)", to)
		},
	})
	c.closers = append(c.closers, func() { _ = l.Close() })
}

func (f *runFlags) byEnvironment(ctx context.Context, command, env, inherited []string) (*captured, error) {
	proxy, err := runProxy(ctx, f, nil, inherited)
	if err != nil {
		return nil, err
	}
	c := &captured{closers: []func(){func() { _ = proxy.Close() }}}
	if len(f.publications) > 0 {
		note("-p is not needed: the command's ports are the host's")
	}
	env = append(env, intercept.Environment(proxy.HTTPProxy())...)
	if c.session, err = netns.Start(ctx, netns.Options{Command: command, Env: env, Plain: true}); err != nil {
		c.close()
		return nil, err
	}
	c.closers = append(c.closers, func() { _ = c.session.Close() })
	return c, nil
}

// runningProxy is run's own proxy. Close drains and ends it.
type runningProxy interface {
	// HTTPProxy is where the forward proxy listens on the host ("127.0.0.1:PORT"); called only without a namespace.
	HTTPProxy() string
	Close() error
}
