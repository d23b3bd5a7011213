package pipeline

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

func entry(host string, edit ...func(*config.Object, *networking.ServiceEntry)) *config.Object {
	se := &networking.ServiceEntry{Hosts: []string{host}, Resolution: networking.ServiceEntry_DNS}
	o := &config.Object{Key: config.Key{Kind: config.ServiceEntry, Namespace: "default", Name: host}, Spec: se}
	for _, e := range edit {
		e(o, se)
	}
	return o
}

func entries(n int) []*config.Object {
	var out []*config.Object
	for i := range n {
		out = append(out, entry(fmt.Sprintf("h%d.example.com", i)))
	}
	return out
}

func TestAllocation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "addresses.json")
	a := newAllocator(path)
	objects := entries(5000)
	first, issues := a.assign(objects)
	if len(first) != 5000 || len(issues) != 0 {
		t.Fatalf("%d hosts, %v", len(first), issues)
	}
	seen := map[netip.Addr]bool{}
	for h, v := range first {
		b4, b6 := v.V4.As4(), v.V6.As16()
		if !prefix4.Contains(v.V4) || !prefix6.Contains(v.V6) || seen[v.V4] || seen[v.V6] || b4[3] == 0 || b4[3] == 255 || b6[15] == 0 || b6[15] == 255 {
			t.Fatalf("%s: %v", h, v)
		}
		seen[v.V4], seen[v.V6] = true, true
	}
	// A host that goes and comes again, in another process and another order, has what it had.
	second, _ := newAllocator(path).assign([]*config.Object{entry("other.com"), objects[17]})
	if second["h17.example.com"] != first["h17.example.com"] || seen[second["other.com"].V4] {
		t.Errorf("moved or reused: %v", second)
	}
	if v, _ := a.assign(append(objects, entry("other.com"))); v["other.com"] != second["other.com"] {
		t.Errorf("two processes differ: %v, %v", v["other.com"], second["other.com"])
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

func TestWhoNeedsAddresses(t *testing.T) {
	status := func(o *config.Object, _ *networking.ServiceEntry) {
		o.Status = &networking.ServiceEntryStatus{Addresses: []*networking.ServiceEntryAddress{{Value: "240.240.7.7", Host: "stated.com"}, {Value: "2001:2::7"}, {Value: "nonsense"}}}
	}
	a := newAllocator("")
	got, issues := a.assign([]*config.Object{
		entry("A.com."),
		entry("addr.com", func(_ *config.Object, se *networking.ServiceEntry) { se.Addresses = []string{"10.0.0.1"} }),
		entry("none.com", func(_ *config.Object, se *networking.ServiceEntry) { se.Resolution = networking.ServiceEntry_NONE }),
		entry("off.com", func(o *config.Object, _ *networking.ServiceEntry) {
			o.Labels = map[string]string{noAllocation: "false"}
		}),
		entry("*.wild.com"),
		entry("stated.com", status),
		{Key: config.Key{Kind: config.DestinationRule}, Spec: &networking.DestinationRule{Host: "dr.com"}},
	})
	if len(issues) != 0 || len(got) != 2 || !got["a.com"].V4.IsValid() ||
		got["stated.com"] != (config.VIPs{V4: netip.MustParseAddr("240.240.7.7"), V6: netip.MustParseAddr("2001:2::7")}) {
		t.Errorf("%v %v", got, issues)
	}
}

func TestStatedAddressIsNotGivenAway(t *testing.T) {
	free, _ := newAllocator("").assign([]*config.Object{entry("a.com")})
	taken := free["a.com"].V4
	got, _ := newAllocator("").assign([]*config.Object{entry("a.com"),
		entry("b.com", func(_ *config.Object, se *networking.ServiceEntry) { se.Addresses = []string{taken.String()} })})
	if got["a.com"].V4 == taken || !got["a.com"].V4.IsValid() {
		t.Errorf("%v was given away", taken)
	}
}

func TestPoolEnds(t *testing.T) {
	a := newAllocator("")
	objects := entries(1<<16 - 100)
	got, issues := a.assign(objects)
	n := 0
	for _, v := range got {
		if v.V4.IsValid() {
			n++
		}
	}
	if want := 256 * 254; n != want {
		t.Errorf("%d IPv4 addresses were given out, want %d", n, want)
	}
	if len(issues) != len(objects)-n || issues[0].Code != config.CodeAddressPool {
		t.Errorf("%d issues", len(issues))
	}
}

func TestStateFileFaults(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"garbage":   "{",
		"long":      strings.Repeat(" ", maxStateFile+1),
		"foreign":   `{"version":1,"addresses":{"a.com":["10.0.0.1","2001:2::1"],"b.com":["240.240.1.1","2001:2::2"],"c.com":["240.240.1.1","2001:2::3"]}}`,
		"directory": "",
	} {
		path := filepath.Join(dir, name)
		if name == "directory" {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, issues := newAllocator(path).assign([]*config.Object{entry("a.com"), entry("b.com"), entry("c.com")})
		if !prefix4.Contains(got["a.com"].V4) || got["b.com"].V4 == got["c.com"].V4 {
			t.Errorf("%s: %v", name, got)
		}
		if fine := name == "foreign"; fine != (len(issues) == 0) || !fine && issues[0].Severity != config.Warning {
			t.Errorf("%s: %v", name, issues)
		}
		if b, _ := os.ReadFile(path); name == "garbage" && string(b) != content {
			t.Error("a file that could not be read was overwritten")
		}
	}
	file := filepath.Join(dir, "garbage", "x", "addresses.json") // below a file: no folder can be made
	if got, issues := newAllocator(file).assign([]*config.Object{entry("a.com")}); !got["a.com"].V4.IsValid() || len(issues) != 1 {
		t.Errorf("%v %v", got, issues)
	}
}

func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "addresses.json")
	var wg sync.WaitGroup
	results := make([]map[string]config.VIPs, 4)
	for i := range results {
		wg.Go(func() {
			a := newAllocator(path)
			for j := range 10 {
				results[i], _ = a.assign([]*config.Object{entry(fmt.Sprintf("own%d-%d.com", i, j)), entry("shared.com")})
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]string{}
	a := newAllocator(path)
	if err := a.merge(); err != nil || len(a.hosts) != 41 {
		t.Errorf("%d hosts are remembered, %v", len(a.hosts), err)
	}
	for h, v := range a.hosts {
		if other, taken := seen[v.V4]; taken {
			t.Errorf("%s and %s share %s", h, other, v.V4)
		}
		seen[v.V4] = h
	}
	for _, r := range results {
		if r["shared.com"] != a.hosts["shared.com"] {
			t.Errorf("shared.com: %v, %v", r["shared.com"], a.hosts["shared.com"])
		}
	}
}
