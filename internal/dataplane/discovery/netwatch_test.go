package discovery

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// watched runs watchNetwork in the test's bubble; the returned values are what the test plays with.
type watched struct {
	events chan struct{}
	state  atomic.Pointer[string]
	slept  atomic.Int64
	calls  atomic.Int32
}

func (w *watched) setState(s string) { w.state.Store(&s) }

func startWatch(t *testing.T) *watched {
	w := &watched{events: make(chan struct{})}
	w.setState("a")
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go watchNetwork(ctx, w.events, "a", func() string { return *w.state.Load() },
		func() time.Duration { return time.Duration(w.slept.Load()) }, func() { w.calls.Add(1) })
	synctest.Wait()
	return w
}

func (w *watched) want(t *testing.T, n int32) {
	t.Helper()
	synctest.Wait()
	if got := w.calls.Load(); got != n {
		t.Fatalf("fn was called %d times, want %d", got, n)
	}
}

func TestWatchNetworkDebounces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t)
		w.setState("b")
		for range 5 {
			w.events <- struct{}{}
			time.Sleep(100 * time.Millisecond)
		}
		w.want(t, 0)
		time.Sleep(401 * time.Millisecond)
		w.want(t, 1)
		w.events <- struct{}{} // without a change
		time.Sleep(time.Minute)
		w.want(t, 1)
	})
}

func TestWatchNetworkThatIsNeverQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t)
		w.setState("b")
		for range 21 {
			w.events <- struct{}{}
			time.Sleep(100 * time.Millisecond)
		}
		w.want(t, 1)
	})
}

func TestWakeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t)
		w.slept.Add(int64(4 * time.Second))
		time.Sleep(time.Minute)
		w.want(t, 0)
		w.slept.Add(int64(5 * time.Second))
		time.Sleep(3 * time.Second)
		w.want(t, 1)
		time.Sleep(time.Minute)
		w.want(t, 1)
	})
}
