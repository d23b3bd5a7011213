//go:build linux

package load

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// tail is how long answers of the open loop are waited for after the last request was due.
	tail = 2 * time.Second
	// tooMany failures end a run.
	tooMany = 100
	bufSize = 1 << 20
	// opening is how many connections Hold opens at the same time.
	opening = 32
)

type state uint8

const (
	closed state = iota
	tunnel       // CONNECT sent, its answer not complete
	idle
	sending
	waiting // for the head of an answer
	body
	ending // answered; the other side closes
)

type conn struct {
	fd    int
	state state
	sent  int           // bytes of the request written
	head  []byte        // of an answer, while it is not complete
	left  int64         // bytes of body still to come
	due   time.Duration // open loop: when the request was due
}

type generator struct {
	cfg     Config
	epoll   int
	addr    unix.RawSockaddrInet4
	base    time.Time
	request []byte
	connect []byte
	buf     []byte
	conns   []conn

	from, until time.Duration // the measured time
	measuring   bool
	res         Result
	plan        schedule
	free        []int32         // open loop: idle connections
	queue       []time.Duration // open loop: due requests without a connection
	pending     int             // open loop: due in the measured time, not answered
	opened      int             // Hold
	held        int             // Hold: connections that were answered
	up          *upstream       // nil without Serve
}

// Run makes load and measures. It keeps its goroutine on one thread. With Hold it returns the result by onHeld once all
// connections stand, and lets them go when ctx ends.
func Run(ctx context.Context, cfg Config, onHeld func(Result)) (Result, error) {
	if err := cfg.check(); err != nil {
		return Result{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The kernel may otherwise add 50 µs to each sleep.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return Result{}, fmt.Errorf("timer slack: %w", err)
	}
	ShortSlice(0)
	g := &generator{cfg: cfg, base: time.Now(), request: cfg.request(), buf: make([]byte, bufSize), conns: make([]conn, cfg.Conns)}
	if cfg.Tunnel != "" {
		g.connect = []byte("CONNECT " + cfg.Tunnel + " HTTP/1.1\r\nHost: " + cfg.Tunnel + "\r\n\r\n")
	}
	if err := g.resolve(); err != nil {
		return Result{}, err
	}
	var err error
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return Result{}, fmt.Errorf("epoll: %w", err)
	}
	defer g.close()
	if cfg.Serve != "" {
		if err := g.listen(); err != nil {
			return Result{}, err
		}
	}
	if err := g.run(ctx, onHeld); err != nil {
		return Result{}, err
	}
	g.res.summarize()
	return g.res, nil
}

func (g *generator) resolve() error {
	a, err := netip.ParseAddrPort(g.cfg.Addr)
	if err != nil || !a.Addr().Is4() {
		return fmt.Errorf("address %q: not an IPv4 address and port", g.cfg.Addr)
	}
	p := a.Port()
	g.addr = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: p<<8 | p>>8, Addr: a.Addr().As4()}
	return nil
}

func (g *generator) close() {
	for i := range g.conns {
		if g.conns[i].state != closed {
			_ = unix.Close(g.conns[i].fd)
		}
	}
	if g.up != nil {
		g.up.close()
	}
	_ = unix.Close(g.epoll)
}

func (g *generator) now() time.Duration { return time.Since(g.base) }

func (g *generator) run(ctx context.Context, onHeld func(Result)) error {
	g.from = g.cfg.Warmup
	g.until = g.from + g.cfg.Duration
	if g.cfg.Rate > 0 {
		g.plan = schedule{start: 0, rate: g.cfg.Rate}
		g.res.Latencies = make([]time.Duration, 0, int(g.cfg.Rate*g.cfg.Duration.Seconds())+1)
	}
	n := len(g.conns)
	if g.cfg.Hold {
		n = min(n, opening)
	}
	for range n {
		if err := g.open(g.opened); err != nil {
			return err
		}
		g.opened++
	}
	if g.cfg.Hold {
		return g.hold(ctx, onHeld)
	}
	return g.measure(ctx)
}

func (g *generator) hold(ctx context.Context, onHeld func(Result)) error {
	for g.held < len(g.conns) {
		if err := g.turn(time.Second); err != nil {
			return err
		}
		if g.res.Failed > 0 {
			return fmt.Errorf("after %d connections: %s", g.held, g.res.Failure)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	onHeld(g.res)
	<-ctx.Done()
	return nil
}

func (g *generator) measure(ctx context.Context) error {
	var cpu0 time.Duration
	for {
		now := g.now()
		if !g.measuring && now >= g.from {
			g.from, g.until, g.measuring = now, now+g.cfg.Duration, true
			g.res.Requests, g.res.Bytes = 0, 0
			var err error
			if cpu0, err = g.cpu(); err != nil {
				return err
			}
		}
		if g.measuring && now >= g.until {
			if g.cfg.Rate > 0 {
				g.launch(g.until - 1) // what was due while this thread did not run
			}
			break
		}
		wait := g.from - now
		if g.measuring {
			wait = g.until - now
		}
		if g.cfg.Rate > 0 {
			g.launch(now)
			if len(g.free) > 0 { // else an answer must come first, and a timer would only take CPU from the upstream
				wait = min(wait, max(g.plan.at(g.plan.next)-now, 0))
			}
		}
		if err := g.turn(wait); err != nil {
			return err
		}
		if g.res.Failed >= tooMany {
			return fmt.Errorf("%d requests failed: %s", g.res.Failed, g.res.Failure)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	cpu, err := g.cpu()
	if err != nil {
		return err
	}
	g.res.CPU, g.res.Elapsed = cpu-cpu0, g.now()-g.from
	requests, bytes := g.res.Requests, g.res.Bytes
	err = g.finish()
	g.res.Requests, g.res.Bytes = requests, bytes // of the time that CPU is of
	return err
}

// finish waits for what the open loop has still under way: a late answer must be counted, not forgotten.
func (g *generator) finish() error {
	end := g.now() + tail
	for g.pending > 0 {
		now := g.now()
		if now >= end {
			g.res.Failed += int64(g.pending)
			g.res.Failure = fmt.Sprintf("%d requests without an answer %s after the last was due", g.pending, tail)
			return nil
		}
		if err := g.turn(end - now); err != nil {
			return err
		}
		if g.res.Failed >= tooMany {
			return fmt.Errorf("%d requests failed: %s", g.res.Failed, g.res.Failure)
		}
	}
	return nil
}

func (g *generator) cpu() (sum time.Duration, err error) {
	for _, pid := range g.cfg.PIDs {
		t, err := CPUTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// launch sends the requests of the open loop that are due.
func (g *generator) launch(now time.Duration) {
	for {
		due, ok := g.plan.take(now)
		if !ok {
			return
		}
		if g.measured(due) {
			g.pending++
		}
		if len(g.free) == 0 {
			g.queue = append(g.queue, due)
			if g.measured(due) {
				g.res.Waited++
			}
			continue
		}
		last := len(g.free) - 1
		i := g.free[last]
		g.free = g.free[:last]
		g.conns[i].due = due
		g.send(int(i))
	}
}

func (g *generator) measured(due time.Duration) bool {
	return g.measuring && due >= g.from && due < g.until
}

// turn waits for sockets, at most for the given time, and serves them.
func (g *generator) turn(wait time.Duration) error {
	var events [256]unix.EpollEvent
	ts := unix.NsecToTimespec(int64(max(wait, 0)))
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(g.epoll), uintptr(unsafe.Pointer(&events)),
		uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	if errno != 0 {
		if errno == unix.EINTR {
			return nil
		}
		return fmt.Errorf("epoll_pwait2: %w", errno)
	}
	for _, e := range events[:n] {
		var err error
		switch {
		case e.Fd == listenerID:
			err = g.accept()
		case e.Fd >= servedBase:
			err = g.reply(int(e.Fd) - servedBase)
		default:
			err = g.serve(int(e.Fd), e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
