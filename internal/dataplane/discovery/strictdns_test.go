package discovery

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"detour.dev/detour/internal/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeResolver answers from a function and notes when it was asked.
type fakeResolver struct {
	mu      sync.Mutex
	answer  func(name string, f dns.Family) dns.Answer
	delay   time.Duration
	asked   []time.Time
	family  []dns.Family
	v4, v6  bool
	reloads int
}

func (r *fakeResolver) Lookup(ctx context.Context, name string, f dns.Family) dns.Answer {
	r.mu.Lock()
	r.asked = append(r.asked, time.Now())
	r.family = append(r.family, f)
	delay := r.delay
	r.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return dns.Answer{Err: &dns.Error{Kind: dns.Canceled, Name: name}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answer(name, f)
}

func (r *fakeResolver) Families() (v4, v6 bool) { return r.v4, r.v6 }
func (r *fakeResolver) Reload() {
	r.mu.Lock()
	r.reloads++
	r.mu.Unlock()
}

func (r *fakeResolver) set(ans dns.Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = func(string, dns.Family) dns.Answer { return ans }
}

// gaps gives the pauses between the lookups so far.
func (r *fakeResolver) gaps() (out []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := 1; i < len(r.asked); i++ {
		out = append(out, r.asked[i].Sub(r.asked[i-1]))
	}
	return out
}

func (r *fakeResolver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked)
}

func addrs(s string) (out []netip.Addr) {
	for _, f := range strings.Fields(s) {
		out = append(out, netip.MustParseAddr(f))
	}
	return out
}

func good(ttl time.Duration, s string) dns.Answer { return dns.Answer{Addrs: addrs(s), TTL: ttl} }
func bad(k dns.Kind) dns.Answer                   { return dns.Answer{Err: &dns.Error{Kind: k, Name: "db"}} }

// recorder notes what fn was given.
type recorder struct {
	mu   sync.Mutex
	sets [][]netip.Addr
}

func (r *recorder) fn(a []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets = append(r.sets, a)
}

func (r *recorder) want(t *testing.T, sets ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sets) != len(sets) {
		t.Fatalf("fn was given %v, want %q", r.sets, sets)
	}
	for i, s := range sets {
		if !slices.Equal(r.sets[i], addrs(s)) {
			t.Fatalf("fn was given %v, want %q", r.sets, sets)
		}
	}
}

func fixture(t *testing.T, ans dns.Answer, rnd float64) (*fakeResolver, *StrictDNS) {
	r := &fakeResolver{v4: true, v6: true}
	r.set(ans)
	d := NewStrictDNS(r, StrictDNSOptions{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Rand: func() float64 { return rnd }})
	t.Cleanup(d.Close)
	return r, d
}

// pass lets time go by and everything settle.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestInterval(t *testing.T) {
	for _, tc := range []struct {
		name string
		opt  Options
		ttl  time.Duration
		rnd  float64
		want time.Duration
	}{
		{"ttl", Options{RespectTTL: true}, 5 * time.Second, 0, 5 * time.Second},
		{"ttl beyond the refresh rate", Options{RespectTTL: true, RefreshRate: 2 * time.Second}, 30 * time.Second, 0, 30 * time.Second},
		{"ttl 0", Options{RespectTTL: true}, 0, 0, 60 * time.Second},
		{"ttl not respected", Options{RefreshRate: 7 * time.Second}, 5 * time.Second, 0, 7 * time.Second},
		{"jitter", Options{RespectTTL: true, Jitter: 2 * time.Second}, 5 * time.Second, 0.5, 6 * time.Second},
		{"default jitter", Options{}, 0, 0.5, 60*time.Second + 50*time.Millisecond},
		{"no jitter", Options{Jitter: -1}, 0, 0.5, 60 * time.Second},
		{"never under 1 s", Options{RefreshRate: time.Millisecond}, 0, 0, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, d := fixture(t, good(tc.ttl, "192.0.2.1"), tc.rnd)
				d.Watch("db", tc.opt, func([]netip.Addr) {})
				pass(3 * tc.want)
				if got := r.gaps(); len(got) != 3 && len(got) != 2 || got[0] != tc.want || got[1] != tc.want {
					t.Fatalf("lookups %v apart, want %v", got, tc.want)
				}
			})
		})
	}
}

func TestChangesAndFailuresKeepLastGood(t *testing.T) {
	for _, k := range []dns.Kind{dns.NXDomain, dns.NoData, dns.ServFail, dns.Timeout, dns.Refused, dns.Local} {
		t.Run(k.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, d := fixture(t, good(10*time.Second, "192.0.2.1 192.0.2.2"), 0)
				var rec recorder
				w := d.Watch("db", Options{RespectTTL: true}, rec.fn)
				<-w.First()
				rec.want(t, "192.0.2.1 192.0.2.2")
				r.set(bad(k))
				pass(2 * time.Minute)
				if got, _, err := w.Last(); !slices.Equal(got, addrs("192.0.2.1 192.0.2.2")) || dns.KindOf(err) != k {
					t.Fatalf("Last() = %v, %v", got, err)
				}
				r.set(good(10*time.Second, "192.0.2.2 192.0.2.3"))
				pass(time.Minute)
				rec.want(t, "192.0.2.1 192.0.2.2", "192.0.2.2 192.0.2.3")
				if _, _, err := w.Last(); err != nil {
					t.Fatalf("error %v after recovery", err)
				}
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	for _, tc := range []struct {
		rnd  float64
		want []time.Duration
	}{
		{0, []time.Duration{1, 2, 4, 8, 10, 10}},
		{0.5, []time.Duration{1250, 2500, 5000, 10000, 12500, 12500}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, d := fixture(t, bad(dns.ServFail), tc.rnd)
			w := d.Watch("db", Options{RefreshRate: 10 * time.Second}, func([]netip.Addr) { t.Error("addresses out of nothing") })
			<-w.First()
			pass(time.Minute)
			got := r.gaps()
			for i, want := range tc.want {
				unit := time.Millisecond
				if want < 100 {
					unit = time.Second
				}
				if i >= len(got) || got[i] != want*unit {
					t.Fatalf("pauses %v, want %v", got, tc.want)
				}
			}
		})
	}
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := fixture(t, good(0, "192.0.2.1"), 0)
		w := d.Watch("db", Options{}, func([]netip.Addr) {})
		pass(10 * time.Second)
		for range 100 {
			w.Refresh()
		}
		pass(0)
		if n := r.count(); n != 2 {
			t.Fatalf("%d lookups after refreshes at one moment, want 2", n)
		}
		for range 30 { // three seconds of failing connections
			w.Refresh()
			pass(100 * time.Millisecond)
		}
		if n := r.count(); n != 5 {
			t.Fatalf("%d lookups after 3 s of refreshes, want 5", n)
		}
		pass(59 * time.Second)
		if n := r.count(); n != 5 {
			t.Fatalf("%d lookups, a refresh must begin a new interval", n)
		}
	})
}

func TestRefreshJoinsLookupUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := fixture(t, good(0, "192.0.2.1"), 0)
		r.delay = 3 * time.Second
		w := d.Watch("db", Options{}, func([]netip.Addr) {})
		pass(time.Second)
		w.Refresh()
		pass(10 * time.Second)
		if n := r.count(); n != 1 {
			t.Fatalf("%d lookups, want the one under way", n)
		}
	})
}

func TestSharing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := fixture(t, good(0, "192.0.2.1"), 0)
		var a, b, c recorder
		wa := d.Watch("db", Options{}, a.fn)
		wb := d.Watch("db", Options{RefreshRate: DefaultRefreshRate}, b.fn)
		pass(time.Second)
		wc := d.Watch("db", Options{}, c.fn)
		if got, _, _ := wc.Last(); len(got) != 1 {
			t.Fatal("a watch of a known name has no addresses before its first call")
		}
		<-wc.First()
		for _, rec := range []*recorder{&a, &b, &c} {
			rec.want(t, "192.0.2.1")
		}
		if n := r.count(); n != 1 {
			t.Fatalf("%d lookups for one name", n)
		}
		wa.Close()
		wa.Close()
		r.set(good(0, "192.0.2.9"))
		pass(61 * time.Second)
		a.want(t, "192.0.2.1")
		b.want(t, "192.0.2.1", "192.0.2.9")
		wb.Close()
		wc.Close()
		n := r.count()
		pass(10 * time.Minute)
		if r.count() != n {
			t.Fatal("lookups go on without a watch")
		}
	})
}

func TestReloadAllAbandonsLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := fixture(t, good(0, "192.0.2.1"), 0)
		r.delay = time.Hour
		var rec recorder
		w := d.Watch("db", Options{}, rec.fn)
		pass(time.Second)
		r.mu.Lock()
		r.delay = 0
		r.mu.Unlock()
		d.ReloadAll()
		<-w.First()
		rec.want(t, "192.0.2.1")
		if r.reloads != 1 || r.count() != 2 {
			t.Fatalf("%d reloads, %d lookups", r.reloads, r.count())
		}
	})
}

func TestFamilies(t *testing.T) {
	for _, tc := range []struct {
		v4, v6     bool
		opt, asked dns.Family
	}{
		{true, true, dns.All, dns.All},
		{true, false, dns.All, dns.V4},
		{false, true, dns.All, dns.V6},
		{false, false, dns.All, dns.All},
		{true, false, dns.V6, dns.V6},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, d := fixture(t, good(0, "192.0.2.1"), 0)
			r.v4, r.v6 = tc.v4, tc.v6
			<-d.Watch("db", Options{Family: tc.opt}, func([]netip.Addr) {}).First()
			if r.family[0] != tc.asked {
				t.Errorf("%+v: asked for family %d", tc, r.family[0])
			}
		})
	}
}

func TestMissingFamilyIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := fixture(t, good(0, "192.0.2.1 2001:db8::1"), 0)
		var rec recorder
		d.Watch("db", Options{}, rec.fn)
		pass(time.Second)
		r.set(dns.Answer{Addrs: addrs("192.0.2.2"), Missing: dns.V6})
		pass(2 * time.Minute)
		if got := r.gaps(); len(got) < 3 || got[1] != time.Second || got[2] != 2*time.Second {
			t.Fatalf("lookups %v apart: what is missing must be asked for soon", got)
		}
		r.set(good(0, "192.0.2.2"))
		pass(time.Minute)
		rec.want(t, "192.0.2.1 2001:db8::1", "192.0.2.2 2001:db8::1", "192.0.2.2")
	})
}

func TestCloseAndRefreshFromWithinFn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := fixture(t, good(0, "192.0.2.1"), 0)
		ready := make(chan struct{})
		var w *Watcher
		w = d.Watch("db", Options{}, func([]netip.Addr) {
			<-ready
			w.Refresh()
			w.Close()
		})
		close(ready)
		<-w.First()
		pass(time.Hour)
		if n := r.count(); n != 1 {
			t.Fatalf("%d lookups after Close", n)
		}
	})
}

func TestLogsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := &fakeResolver{v4: true, v6: true}
		r.set(bad(dns.Local))
		d := NewStrictDNS(r, StrictDNSOptions{Log: slog.New(slog.NewTextHandler(&log, nil)), Rand: func() float64 { return 0 }})
		for _, n := range []string{"a", "b", "c"} {
			d.Watch(n, Options{}, func([]netip.Addr) {})
		}
		pass(5 * time.Minute)
		r.set(good(0, "192.0.2.1"))
		pass(5 * time.Minute)
		d.Close()
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Fatalf("%d lines for one fault and its end:\n%s", n, log.String())
		}
	})
}
