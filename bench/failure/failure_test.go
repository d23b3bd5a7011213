//go:build linux

package failure

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// relayVerb is a proxy that knows the primary endpoint only: what a fault does must show.
const relayVerb = "failure-test-relay"

func TestMain(m *testing.M) {
	if Process(os.Args[1:]) {
		return
	}
	if len(os.Args) == 2 && os.Args[1] == relayVerb {
		relay()
	}
	os.Exit(m.Run())
}

func relay() {
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(ProxyPort))
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer c.Close()
			u, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(PrimaryPort))
			if err != nil {
				return
			}
			defer u.Close()
			go func() { _, _ = io.Copy(u, c) }()
			_, _ = io.Copy(c, u)
		}()
	}
}

// anyCPU is one that we may use.
func anyCPU(t *testing.T) string {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for i := range 1024 {
		if set.IsSet(i) {
			return strconv.Itoa(i)
		}
	}
	t.Fatal("no CPU")
	return ""
}

// TestMeasure: a proxy without a second endpoint fails as the fault has it.
func TestMeasure(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	base := Config{Proxy: []string{self, relayVerb}, ProxyCPU: anyCPU(t), Host: "bench.test", Method: "POST", Rate: 200, Requests: 100,
		After: 250 * time.Millisecond, Think: time.Millisecond, Patience: time.Second}
	for _, f := range []Fault{Kill, DropTo, DropFrom} {
		t.Run(string(f), func(t *testing.T) {
			c := base
			c.Fault, c.Dir = f, t.TempDir()
			r, err := Measure(context.Background(), anyCPU(t), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", r)
			if r.Requests != 100 || r.Statuses[200] < 20 || r.Statuses[200]+r.Failed != 100 || r.FailedLate < 20 || r.NoAnswer != r.Failed || r.Twice != 0 {
				t.Error("not what such a proxy does")
			}
			// What goes to the endpoint on a connection that stands arrives when only its answers are lost.
			if some := r.Lost < r.Failed; f != Kill && some != (f == DropFrom) {
				t.Errorf("%d of %d failed requests had reached no endpoint", r.Lost, r.Failed)
			}
			if silent := r.SlowestFailed >= base.Patience; silent != (f != Kill) {
				t.Errorf("the slowest failure came after %v", r.SlowestFailed)
			}
		})
	}
}

func TestMeasureRefuses(t *testing.T) {
	for _, c := range []Config{{Proxy: []string{"true"}, Rate: 100, Requests: 100, After: time.Second},
		{Proxy: []string{"true"}, ProxyCPU: anyCPU(t), Rate: 100, Requests: 100}} {
		c.Dir = t.TempDir()
		if r, err := Measure(context.Background(), anyCPU(t), c); err == nil {
			t.Errorf("%+v gave %+v", c, r)
		}
	}
}

func TestTally(t *testing.T) {
	ms := time.Millisecond
	got := tally([]outcome{
		{id: "a", due: 0, took: 2 * ms, status: 200},
		{id: "b", due: 10 * ms, took: 60 * ms, status: 200, late: 3 * ms},
		{id: "c", due: 104 * ms, took: 70 * ms, status: 503},
		{id: "d", due: 106 * ms, took: 700 * ms, status: 504},
		{id: "e", due: 110 * ms, took: 800 * ms, err: errors.New("reset")},
	}, []string{"a", "b", "b", "c", "x", "x"}, 100*ms)
	want := Result{Requests: 5, Failed: 3, FailedLate: 2, NoAnswer: 1, Statuses: map[int]int{200: 2, 503: 1, 504: 1}, Twice: 1, Lost: 2,
		Slowest: 800 * ms, SlowestFailed: 800 * ms, P99: 800 * ms, Over50: 4, Over500: 2, Late: 3 * ms, Example: "reset"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
