// Package app assembles a running detour: one ordered list of runners, started from first to last and stopped in reverse.
// It owns no behaviour of its own.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/admin"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
	"detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/intercept"
	"detour.dev/detour/internal/intercept/dnsproxy"
	"detour.dev/detour/internal/stats"
	"detour.dev/detour/internal/xds"
)

// firstAnswers bounds how long a start waits for the first DNS answers of the nearest endpoints.
const firstAnswers = 2 * time.Second

// Config is what a process is made of. Whoever fills in sockets gives them away.
type Config struct {
	Source    source.Source
	Group     xds.NodeGroup
	StateFile string // allocated addresses; "" keeps them in memory
	KeepGoing bool

	RegistryOnly, ProxyDeclaredOnly bool
	Compat                          bool // proxy --compat envoy
	Workers                         int
	Resolver                        netip.AddrPort // zero: the system's
	ForwardProxy                    map[string]string

	Redirected []int // listening sockets, non-blocking
	HTTPProxy  []int
	DNSPacket  []net.PacketConn
	DNSStream  []net.Listener
	DNSOnHost  bool // the DNS sockets are on the host: its own resolver may be pointed at them
	Admin      []net.Listener
	AccessLog  func(*streaminfo.Info) // called on the workers' loops; nil: none
	Stats      *stats.Registry
	Log        *slog.Logger
	Level      *slog.LevelVar
	Version    string
	Args       []string
	DrainTime  time.Duration // how long connections may take to end; 0: not at all
	NoNetwatch bool
}

// App is one running process.
type App struct {
	Config
	resolver *dns.Resolver
	strict   *discovery.StrictDNS
	clusters *cluster.Manager
	plane    *dataplane.Plane
	pipeline *pipeline.Pipeline
	dnsproxy *dnsproxy.Server
	state    *state

	runners []runner
	quit    chan struct{}
	once    sync.Once
}

// runner is one part of the process.
type runner struct {
	name  string
	start func(context.Context) error
	stop  func()
}

// New assembles the parts; nothing runs yet.
func New(c Config) *App {
	a := &App{Config: c, quit: make(chan struct{})}
	if a.Log == nil {
		a.Log = slog.Default()
	}
	if a.Stats == nil {
		a.Stats = stats.NewRegistry()
	}
	a.state = &state{a: a}
	a.runners = []runner{
		{"resolver", a.startResolver, func() { a.strict.Close() }},
		{"engine", a.startPlane, func() { a.plane.Stop(); a.clusters.Close() }},
		{"configuration", a.startPipeline, nil},
		{"dns proxy", a.startDNS, a.stopDNS},
		{"listeners", a.startListeners, a.drain},
		{"admin", a.startAdmin, nil},
		{"network watch", a.startNetwatch, nil},
	}
	return a
}

// Run starts everything, calls ready, and returns once ctx has ended, or Quit was asked for, and all is stopped. An error
// means that something could not be started; what was is stopped again.
func (a *App) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var background sync.WaitGroup
	a.state.background = &background
	var err error
	started := 0
	for _, r := range a.runners {
		if err = r.start(ctx); err != nil {
			break
		}
		started++
	}
	if err == nil {
		a.state.live.Store(true)
		ready()
		select {
		case <-ctx.Done():
		case <-a.quit:
		}
	}
	a.state.live.Store(false)
	for i := started - 1; i >= 0; i-- {
		if stop := a.runners[i].stop; stop != nil {
			stop()
		}
		if a.runners[i].name == "listeners" {
			cancel() // draining is over: what runs beside stops
		}
	}
	cancel()
	background.Wait()
	return err
}

// Quit ends Run.
func (a *App) Quit() { a.once.Do(func() { close(a.quit) }) }

// background runs fn beside the rest until the process stops.
func (a *App) background(ctx context.Context, name string, fn func(context.Context) error) {
	a.state.background.Go(func() {
		if err := fn(ctx); err != nil && !errors.Is(err, context.Canceled) {
			a.Log.Error(name+" ended", "error", err)
		}
	})
}

func (a *App) startResolver(context.Context) error {
	a.resolver = dns.New(dns.Options{Server: a.Config.Resolver})
	if a.DNSOnHost {
		a.resolver.Avoid(a.dnsAddresses()...)
	}
	a.strict = discovery.NewStrictDNS(a.resolver, discovery.StrictDNSOptions{Log: a.Log})
	return nil
}

func (a *App) dnsAddresses() (out []netip.AddrPort) {
	for _, pc := range a.DNSPacket {
		if u, ok := pc.LocalAddr().(*net.UDPAddr); ok {
			out = append(out, u.AddrPort())
		}
	}
	return out
}

func (a *App) startPlane(ctx context.Context) error {
	a.clusters = cluster.NewManager(cluster.Options{Log: a.Log, Discovery: cluster.DNS(a.strict), Stats: a.Stats, CompatEnvoy: a.Compat})
	via, err := upstream.NewForwardProxy(a.ForwardProxy, func(hostport string) (netip.AddrPort, error) { return a.resolveOne(ctx, hostport) })
	if err != nil {
		return err
	}
	a.plane, err = dataplane.New(dataplane.Options{
		Clusters: a.clusters, Stats: a.Stats, Log: a.Log, Workers: a.Workers, Compat: a.Compat,
		RegistryOnly: a.RegistryOnly, ProxyDeclaredOnly: a.ProxyDeclaredOnly,
		OriginalDst: intercept.OriginalDst, Resolve: a.lookup, Via: via, AccessLog: a.AccessLog,
	})
	return err
}

func (a *App) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	ans := a.resolver.Lookup(ctx, name, dns.All)
	return ans.Addrs, ans.Err
}

func (a *App) resolveOne(ctx context.Context, hostport string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addrs, err := a.lookup(ctx, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(addrs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s has no address", host)
	}
	return netip.ParseAddrPort(net.JoinHostPort(addrs[0].String(), port))
}

// startPipeline loads the configuration, so that an error in it ends the start, and waits a little for the nearest
// endpoints' addresses.
func (a *App) startPipeline(ctx context.Context) error {
	a.dnsproxy = dnsproxy.New(dnsproxy.Options{Upstream: a.resolver, Log: a.Log})
	a.pipeline = pipeline.New(pipeline.Config{Source: a.Source, Translate: translate.Translate, Group: a.Group, Sink: sink{a},
		StateFile: a.StateFile, Log: a.Log, KeepGoing: a.KeepGoing})
	if err := a.pipeline.Load(ctx); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, firstAnswers)
	defer cancel()
	a.clusters.WaitFirst(wait)
	a.background(ctx, "configuration", a.pipeline.Run)
	return nil
}

// sink hands a snapshot to the engine and its names to the DNS proxy.
type sink struct{ a *App }

func (s sink) Set(snap *xds.Snapshot) xds.Result {
	r := s.a.plane.Set(snap)
	s.a.dnsproxy.SetNames(snap.Names)
	return r
}

func (a *App) startDNS(context.Context) error {
	a.dnsproxy.Serve(a.DNSPacket, a.DNSStream)
	return nil
}

func (a *App) stopDNS() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = a.dnsproxy.Shutdown(ctx)
}

func (a *App) startListeners(context.Context) error {
	for _, fd := range a.Redirected {
		if err := a.plane.Listen(fd, dataplane.Redirected); err != nil {
			return err
		}
	}
	for _, fd := range a.HTTPProxy {
		if err := a.plane.Listen(fd, dataplane.ForwardProxy); err != nil {
			return err
		}
	}
	return nil
}

// drain lets connections end. It returns when there are none, or DrainTime is over.
func (a *App) drain() {
	a.plane.Drain()
	deadline := time.NewTimer(a.DrainTime)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for a.plane.Connections() > 0 {
		select {
		case <-deadline.C:
			return
		case <-poll.C:
		}
	}
}

func (a *App) startAdmin(ctx context.Context) error {
	h := admin.NewHandler(a.state, admin.Options{Version: a.Version, Args: a.Args, Stats: a.Stats, Level: a.Level, Log: a.Log,
		Node: &corev3.Node{Id: "detour", Locality: a.Group.Locality}})
	for _, l := range a.Admin {
		a.background(ctx, "admin", func(ctx context.Context) error { return admin.Serve(ctx, l, h) })
	}
	return nil
}

func (a *App) startNetwatch(ctx context.Context) error {
	if a.NoNetwatch {
		return nil
	}
	a.background(ctx, "network watch", func(ctx context.Context) error {
		return discovery.WatchNetwork(ctx, func() {
			a.Log.Info("the network changed: idle connections are dropped, names are looked up again")
			a.strict.ReloadAll()
			a.plane.NetworkChanged()
		})
	})
	return nil
}
