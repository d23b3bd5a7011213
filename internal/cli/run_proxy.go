package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"detour.dev/detour/internal/admin"
	"detour.dev/detour/internal/app"
	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/source/dir"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/intercept/netns"
	"detour.dev/detour/internal/stats"
)

// proxyInRun is run's own proxy.
type proxyInRun struct {
	httpProxy string
	cancel    context.CancelFunc
	done      chan error
}

// HTTPProxy implements runningProxy.
func (p *proxyInRun) HTTPProxy() string { return p.httpProxy }

// Close implements runningProxy. What is still under way belongs to a command that has ended.
func (p *proxyInRun) Close() error {
	p.cancel()
	return <-p.done
}

// runProxy starts the proxy that serves COMMAND and returns when it is ready; COMMAND starts afterwards. inside is the
// session whose sockets in COMMAND's network namespace the proxy takes over whether it starts or not; it is nil when only
// the environment leads COMMAND to the proxy, which then listens as an HTTP forward proxy on a free port of the host's
// loopback. inherited are proxy settings, "name=value", that detour's own dials follow. What it prints goes to stderr.
func runProxy(ctx context.Context, f *runFlags, inside *netns.Session, inherited []string) (runningProxy, error) {
	p := &proxyInRun{done: make(chan error, 1)}
	cfg := &app.Config{}
	if inside != nil {
		cfg.Redirected, cfg.DNSPacket, cfg.DNSStream = inside.Capture, inside.DNSPacket, inside.DNSStream
		cfg.NewSocket = inside.NewSocket
	}
	if err := p.configure(cfg, f, inside == nil, inherited); err != nil {
		cfg.CloseSockets()
		return nil, err
	}
	// A reader of standard error that has gone must not end the proxy under COMMAND.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, p.cancel = context.WithCancel(ctx)
	ready := make(chan struct{})
	go func() {
		err := app.New(*cfg).Run(ctx, func() { close(ready) })
		if err == nil && ctx.Err() == nil {
			note("the proxy was told to quit by its admin API: the command's connections fail from now on")
		}
		p.done <- err
	}()
	select {
	case <-ready:
		return p, nil
	case err := <-p.done:
		p.cancel()
		return nil, runConfigError(err)
	}
}

// configure says what run's proxy is made of.
func (p *proxyInRun) configure(cfg *app.Config, f *runFlags, listen bool, inherited []string) error {
	mesh, err := f.mesh(func(i config.Issue) { note("%s", i) })
	if err != nil {
		return err
	}
	registryOnly, err := outboundPolicy(f.policy, f.policySet, mesh)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	if f.verbose {
		level.Set(slog.LevelInfo)
		cfg.AccessLog = sayRequest
	}
	cfg.Source, cfg.Group, cfg.StateFile = dir.New(f.paths, dir.Options{}), f.nodeGroup(registryOnly), pipeline.DefaultStateFile()
	cfg.Mesh = mesh
	cfg.Workers, cfg.ForwardProxy, cfg.Stats = 1, proxyVariables(inherited), stats.NewRegistry()
	cfg.Level, cfg.Log = level, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	cfg.Version, cfg.Args = version(), os.Args
	if f.resolver != "" {
		if cfg.Resolver, err = dns.ParseServer(f.resolver); err != nil {
			return fmt.Errorf("--resolver: %w", err)
		}
	}
	if listen {
		fd, at, err := listenFD("127.0.0.1:0")
		if err != nil {
			return err
		}
		cfg.HTTPProxy, p.httpProxy = []int{fd}, at
	}
	if l, err := admin.ListenPrivate(); err == nil {
		cfg.Admin = append(cfg.Admin, l)
	} else {
		note("detour pc and ps will not find this run: %v", err)
	}
	return nil
}

// runConfigError prints a configuration's errors, one line each; standard error is COMMAND's too, but COMMAND does not start.
func runConfigError(err error) error {
	if e, ok := configError(err, "").(*ExitError); ok {
		return e.Err
	}
	return err
}

// proxyVariables gives the inherited proxy settings by their lower-case names; the lower-case spelling wins.
func proxyVariables(inherited []string) map[string]string {
	env := map[string]string{}
	for _, kv := range inherited {
		k, v, _ := strings.Cut(kv, "=")
		if low := strings.ToLower(k); k == low || env[low] == "" {
			env[low] = v
		}
	}
	if all := env["all_proxy"]; all != "" {
		for _, k := range []string{"http_proxy", "https_proxy"} {
			if env[k] == "" {
				env[k] = all
			}
		}
	}
	return env
}

// sayRequest is run -v: a line for each request and each relayed connection.
func sayRequest(i *streaminfo.Info) {
	var b strings.Builder
	b.WriteString("detour: ")
	if len(i.Method) > 0 {
		fmt.Fprintf(&b, "%s %q %q -> %d", i.Method, i.Authority, i.Path, i.Code)
	} else {
		name := string(i.RequestedServerName)
		if name == "" {
			name = i.OriginalDst.String()
		}
		fmt.Fprintf(&b, "connection to %q, %d bytes up, %d down", name, i.BytesReceived, i.BytesSent)
	}
	if i.UpstreamHost.IsValid() {
		b.WriteString(" from ")
		if i.UpstreamHostname != "" {
			fmt.Fprintf(&b, "%s (%s)", i.UpstreamHostname, i.UpstreamHost)
		} else {
			b.WriteString(i.UpstreamHost.String())
		}
		fmt.Fprintf(&b, ", priority %d", i.Priority)
	}
	fmt.Fprintf(&b, ", %d attempt(s), %s", i.Attempts, i.Duration.Round(time.Microsecond*100))
	if i.Flags != 0 {
		fmt.Fprintf(&b, ", %s", i.Flags)
	}
	if i.UpstreamFailure != "" {
		fmt.Fprintf(&b, " (%s)", i.UpstreamFailure)
	}
	b.WriteByte('\n')
	_, _ = os.Stderr.WriteString(b.String())
}
