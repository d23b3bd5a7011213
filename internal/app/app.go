// Package app assembles a running detour: one ordered list of runners, started from first to last and stopped in reverse.
// It owns no behaviour of its own.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/admin"
	"detour.dev/detour/internal/config"
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

const (
	// firstAnswers bounds how long a start waits for the first DNS answers of the nearest endpoints.
	firstAnswers = 2 * time.Second
	// manyObjects is from how many on the garbage of reading a configuration is given back to the system at once: it is
	// several times what is kept.
	manyObjects = 1000
	// drainPoll is how often a stopping process looks whether connections are left.
	drainPoll = 10 * time.Millisecond
)

// ErrStopped is what Run returns when it was stopped before it was ready.
var ErrStopped = errors.New("stopped before it was ready")

// Config is what a process is made of. Whoever fills in sockets gives them to the App, which closes every one of them
// before Run returns, whether it came to use it or not; without an App, CloseSockets does.
type Config struct {
	Source    source.Source
	Group     xds.NodeGroup
	Mesh      *config.Mesh // nil: Istio's defaults
	StateFile string       // allocated addresses; "" keeps them in memory
	KeepGoing bool

	ProxyDeclaredOnly bool // see dataplane.Options
	Compat            bool // proxy --compat envoy
	Workers           int
	Resolver          netip.AddrPort    // zero: the system's
	ForwardProxy      map[string]string // http_proxy, https_proxy, no_proxy for the App's own dials

	// NewSocket makes the sockets that listeners have of their own; nil: on this host. See listener.Open.
	NewSocket  func(family int) (int, error)
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
}

// CloseSockets closes the sockets that nothing has taken over yet.
func (c *Config) CloseSockets() {
	for _, fd := range append(c.Redirected, c.HTTPProxy...) {
		_ = unix.Close(fd)
	}
	for _, pc := range c.DNSPacket {
		_ = pc.Close()
	}
	for _, l := range append(c.DNSStream, c.Admin...) {
		_ = l.Close()
	}
	c.Redirected, c.HTTPProxy, c.DNSPacket, c.DNSStream, c.Admin = nil, nil, nil, nil, nil
}

// App is one running process.
type App struct {
	cfg      Config
	resolver *dns.Resolver
	strict   *discovery.StrictDNS
	clusters *cluster.Manager
	via      *upstream.ForwardProxy
	plane    *dataplane.Plane
	pipeline *pipeline.Pipeline
	dnsproxy *dnsproxy.Server
	state    *state
	admin    *admin.Handler

	runners []runner
	quit    context.Context // ends with the first Quit
	asked   context.CancelFunc
	hurry   context.Context // ends with the second
	pressed context.CancelFunc
}

// runner is one part of the process. start gets a context that ends when the start is to be given up; stop is called
// only after a start that went well.
type runner struct {
	name  string
	start func(context.Context) error
	stop  func()
}

// New assembles the parts; nothing runs yet.
func New(c Config) *App {
	a := &App{cfg: c}
	if a.cfg.Log == nil {
		a.cfg.Log = slog.Default()
	}
	if a.cfg.Stats == nil {
		a.cfg.Stats = stats.NewRegistry()
	}
	a.quit, a.asked = context.WithCancel(context.Background())
	a.hurry, a.pressed = context.WithCancel(context.Background())
	a.state = &state{a: a}
	compiler := translate.NewCompiler(c.Group)
	compile := func(set *config.Set, _ xds.NodeGroup) (*xds.Snapshot, []config.Issue) { return compiler.Translate(set) }
	a.pipeline = pipeline.New(pipeline.Config{Source: c.Source, Translate: compile, Group: c.Group, Mesh: c.Mesh, Sink: sink{a},
		StateFile: c.StateFile, Log: a.cfg.Log, KeepGoing: c.KeepGoing})
	a.cfg.Stats.OnCollect(func() {
		status := a.pipeline.Status()
		d := a.cfg.Stats.Detour()
		d.ConfigRejected.Set(int64(status.Rejected))
		if status.Set != nil {
			d.ConfigObjects.Set(int64(status.Set.Len()))
		}
	})
	// The admin API shows all there is to see of a start and of a drain. Connections are taken last and given up first.
	a.runners = []runner{
		{"resolver", a.startResolver, func() { a.strict.Close() }},
		{"engine", a.startPlane, func() { a.plane.Stop(); a.clusters.Close() }},
		a.background("admin API", a.startAdmin),
		{"first configuration", a.load, func() {}},
		a.background("configuration", a.watchConfiguration),
		{"dns proxy", a.startDNS, a.stopDNS},
		a.background("network watch", a.watchNetwork),
		{"listeners", a.startListeners, a.drain},
		a.background("collector's pace", paceCollector),
	}
	return a
}

// Run starts everything, calls ready, and returns once ctx has ended, or Quit was called, and all is stopped. An error
// means that something could not be started; what was is stopped again. It is called once.
func (a *App) Run(ctx context.Context, ready func()) error {
	defer a.cfg.CloseSockets()
	defer a.pressed()
	defer a.asked()
	defer context.AfterFunc(ctx, a.Quit)()
	started := 0
	var err error
	for _, r := range a.runners {
		if err = r.start(a.quit); err == nil && a.quit.Err() != nil {
			started++
			err = ErrStopped
		}
		if err != nil {
			break
		}
		started++
	}
	if err == nil {
		a.state.live.Store(true)
		ready()
		<-a.quit.Done()
	} else {
		if a.quit.Err() != nil {
			err = ErrStopped // whatever a start says that was given up
		}
		a.pressed() // nothing was served that is worth a wait
	}
	a.state.draining.Store(true)
	for i := started - 1; i >= 0; i-- {
		a.cfg.Log.Debug("stopping", "part", a.runners[i].name)
		a.runners[i].stop()
	}
	return err
}

// Quit ends Run, after connections had DrainTime to end. Called again, or after Run's context has ended, it ends that
// wait. It returns at once.
func (a *App) Quit() {
	if a.quit.Err() != nil {
		a.pressed()
	}
	a.asked()
}

// background makes a runner of something that goes on until it is stopped. What it returns when nobody stopped it is
// said; the rest goes on.
func (a *App) background(name string, begin func() func(context.Context) error) runner {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	return runner{name: name, start: func(context.Context) error {
		run := begin()
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Log.Error(name+" ended", "error", err)
			}
		})
		return nil
	}, stop: func() {
		cancel()
		running.Wait()
	}}
}

func (a *App) startResolver(context.Context) error {
	a.resolver = dns.New(dns.Options{Server: a.cfg.Resolver})
	if a.cfg.DNSOnHost {
		a.resolver.Avoid(a.dnsAddresses()...)
	}
	a.strict = discovery.NewStrictDNS(a.resolver, discovery.StrictDNSOptions{Log: a.cfg.Log})
	a.dnsproxy = dnsproxy.New(dnsproxy.Options{Upstream: a.resolver, Log: a.cfg.Log})
	return nil
}

func (a *App) dnsAddresses() (out []netip.AddrPort) {
	for _, pc := range a.cfg.DNSPacket {
		if u, ok := pc.LocalAddr().(*net.UDPAddr); ok {
			out = append(out, u.AddrPort())
		}
	}
	return out
}

func (a *App) startPlane(context.Context) (err error) {
	a.clusters = cluster.NewManager(cluster.Options{Log: a.cfg.Log, Discovery: cluster.DNS(a.strict), Stats: a.cfg.Stats, CompatEnvoy: a.cfg.Compat})
	defer func() {
		if err != nil {
			a.clusters.Close()
		}
	}()
	a.via, err = upstream.NewForwardProxy(a.cfg.ForwardProxy, a.proxyAddress)
	if err != nil {
		return err
	}
	a.plane, err = dataplane.New(dataplane.Options{
		Clusters: a.clusters, Stats: a.cfg.Stats, Log: a.cfg.Log, Workers: a.cfg.Workers, Compat: a.cfg.Compat,
		OriginalDst: intercept.OriginalDst, NewSocket: a.cfg.NewSocket, Resolve: a.lookup, Via: a.via, AccessLog: a.cfg.AccessLog, ProxyDeclaredOnly: a.cfg.ProxyDeclaredOnly,
	})
	return err
}

// startAdmin serves the admin API on all its sockets.
func (a *App) startAdmin() func(context.Context) error {
	h := admin.NewHandler(a.state, admin.Options{Version: a.cfg.Version, Args: a.cfg.Args, Stats: a.cfg.Stats, Level: a.cfg.Level,
		Log: a.cfg.Log, Node: &corev3.Node{Id: "detour", Locality: a.cfg.Group.Locality}})
	a.admin = h
	listeners := a.cfg.Admin
	a.cfg.Admin = nil
	return func(ctx context.Context) error {
		var serving sync.WaitGroup
		for _, l := range listeners {
			serving.Go(func() {
				if err := admin.Serve(ctx, l, h); err != nil {
					a.cfg.Log.Error("the admin API ended", "error", err)
				}
			})
		}
		serving.Wait()
		return nil
	}
}

// load reads the configuration, so that an error in it ends the start, and waits a little for the nearest endpoints'
// addresses.
func (a *App) load(ctx context.Context) error {
	if ownPace() {
		defer debug.SetGCPercent(debug.SetGCPercent(loadPercent))
	}
	if err := a.pipeline.Load(ctx); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, firstAnswers)
	defer cancel()
	a.clusters.WaitFirst(wait)
	if a.pipeline.Status().Set.Len() > manyObjects {
		go a.settle()
	}
	return nil
}

// settle does in the background what a large configuration asks for once it is read: its garbage is given back, and the
// first dump of it, which somebody may wait for, is prepared.
func (a *App) settle() {
	debug.FreeOSMemory()
	a.admin.Warm()
	debug.FreeOSMemory()
}

func (a *App) watchConfiguration() func(context.Context) error { return a.pipeline.Run }

// sink hands a snapshot to the engine and its names to the DNS proxy.
type sink struct{ a *App }

func (s sink) Set(snap *xds.Snapshot) xds.Result {
	r := s.a.plane.Set(snap)
	s.a.dnsproxy.SetNames(snap.Names)
	return r
}

func (a *App) startDNS(context.Context) error {
	a.dnsproxy.Serve(a.cfg.DNSPacket, a.cfg.DNSStream)
	a.cfg.DNSPacket, a.cfg.DNSStream = nil, nil
	return nil
}

func (a *App) stopDNS() {
	ctx, cancel := context.WithTimeout(a.hurry, time.Second)
	defer cancel()
	_ = a.dnsproxy.Shutdown(ctx)
}

func (a *App) watchNetwork() func(context.Context) error {
	return func(ctx context.Context) error {
		return discovery.WatchNetwork(ctx, func() {
			a.cfg.Log.Info("the network changed: idle connections are dropped, names are looked up again")
			a.strict.ReloadAll()
			a.plane.NetworkChanged()
			if err := a.via.Refresh(); err != nil {
				a.cfg.Log.Warn("the address of the inherited proxy is not known here", "error", err)
			}
		})
	}
}

func (a *App) startListeners(context.Context) error {
	for _, l := range []struct {
		fds  *[]int
		kind dataplane.Kind
	}{{&a.cfg.Redirected, dataplane.Redirected}, {&a.cfg.HTTPProxy, dataplane.ForwardProxy}} {
		for len(*l.fds) > 0 {
			fd := (*l.fds)[0]
			*l.fds = (*l.fds)[1:]
			if err := a.plane.Listen(fd, l.kind); err != nil {
				return err
			}
		}
	}
	if bad := a.plane.ServeOwn(); len(bad) > 0 {
		err := a.pipeline.Refused(bad)
		if !a.cfg.KeepGoing {
			return err
		}
		a.cfg.Log.Error(err.Error())
	}
	return nil
}

// drain takes no more connections and lets those that are there end. It returns when there are none, DrainTime is over,
// or somebody is in a hurry.
func (a *App) drain() {
	a.plane.Drain()
	if a.cfg.DrainTime <= 0 {
		return
	}
	a.cfg.Log.Info("draining", "connections", a.plane.Connections(), "at_most", a.cfg.DrainTime)
	over, cancel := context.WithTimeout(a.hurry, a.cfg.DrainTime)
	defer cancel()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for { // a worker may be accepting a connection at this moment, so the first look comes after a pause
		select {
		case <-over.Done():
			if n := a.plane.Connections(); n > 0 {
				a.cfg.Log.Warn("connections are cut that did not end in time", "connections", n)
			}
			return
		case <-poll.C:
			if a.plane.Connections() == 0 {
				return
			}
		}
	}
}
