package pipeline

import (
	"fmt"
	"maps"
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
				var issues []config.Issue
				results[i], issues = a.assign([]*config.Object{entry(fmt.Sprintf("own%d-%d.com", i, j)), entry("shared.com")})
				if len(issues) > 0 {
					t.Error(issues)
				}
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]string{}
	a := newAllocator(path)
	_, release, err := a.open()
	release()
	if err != nil || len(a.hosts) != 41 {
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

// remembered gives what a process that starts now knows of the state file.
func remembered(t *testing.T, path string) map[string]config.VIPs {
	t.Helper()
	a := newAllocator(path)
	_, release, err := a.open()
	release()
	if err != nil {
		t.Error(err)
	}
	return a.hosts
}

// TestLockIsHeld: what is allocated while another process holds the lock is remembered once that lets go.
func TestLockIsHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "addresses.json")
	release, err := lock(path+".lock", 1)
	if err != nil {
		t.Fatal(err)
	}
	a := newAllocator(path)
	a.fault = "held" // as after the first wait
	first, issues := a.assign([]*config.Object{entry("a.com")})
	if !first["a.com"].V4.IsValid() || len(issues) != 1 || !strings.Contains(issues[0].Message, "held by another process") {
		t.Fatalf("%v %v", first, issues)
	}
	release()
	if got, issues := a.assign([]*config.Object{entry("a.com")}); got["a.com"] != first["a.com"] || len(issues) != 0 {
		t.Errorf("%v %v", got, issues)
	}
	if got := remembered(t, path); len(got) != 1 || got["a.com"] != first["a.com"] {
		t.Errorf("%v", got)
	}
}

// TestStateFileGrows: what stands in the file stays as it is, and is not read again.
func TestStateFileGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "addresses.json")
	a, objects := newAllocator(path), entries(3)
	a.assign(objects[:1])
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a.assign(objects[:2])
	upto := a.upto
	newAllocator(path).assign(objects[2:])
	all, _ := a.assign(objects)
	after, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(after), string(before)) || upto <= int64(len(before)) || a.upto != int64(len(after)) {
		t.Errorf("%q became %q, %d and %d are known, %v", before, after, upto, a.upto, err)
	}
	if got := remembered(t, path); !maps.Equal(got, all) {
		t.Errorf("%v, %v", got, all)
	}
	for host := range all {
		if n := strings.Count(string(after), host); n != 1 {
			t.Errorf("%s stands %d times", host, n)
		}
	}
}

// TestStateFileIsSpoilt: a file that was cut off, went away or was edited while a process uses it.
func TestStateFileIsSpoilt(t *testing.T) {
	const old = "{\n \"version\": 1,\n \"addresses\": {\n  \"old.com\": [\n   \"240.240.9.9\",\n   \"2001:2::9\"\n  ]\n }\n}\n"
	for name, c := range map[string]struct {
		spoil   func(content string) string // "" removes it
		fault   string
		keepsIt bool
	}{
		"nothing":           {spoil: func(s string) string { return s }},
		"half an addition":  {spoil: func(s string) string { return s + `{"version":1,"addr` }},
		"zeros":             {spoil: func(s string) string { return s + strings.Repeat("\x00", 4096) }},
		"no end of line":    {spoil: func(s string) string { return strings.TrimSuffix(s, "\n") }},
		"the last is gone":  {spoil: func(s string) string { return s[:strings.LastIndex(s[:len(s)-1], "\n")+1] }},
		"gone":              {spoil: func(string) string { return "" }},
		"another":           {spoil: func(string) string { return `{"addresses":{"z.com":["240.240.8.8","2001:2::8"]}}` }},
		"longer, edited":    {spoil: func(s string) string { return " " + s + " " }},
		"nonsense in a row": {spoil: func(s string) string { return s + "nonsense\n" }, fault: "not a state file", keepsIt: true},
		"all nonsense":      {spoil: func(string) string { return strings.Repeat("nonsense", 1000) }, fault: "not a state file", keepsIt: true},
	} {
		for _, restarted := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "addresses.json")
			if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
				t.Fatal(err)
			}
			a := newAllocator(path)
			a.assign(entries(1))
			first, _ := a.assign(append(entries(2), entry("old.com")))
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			spoilt := c.spoil(string(b))
			if err := os.WriteFile(path, []byte(spoilt), 0o600); err != nil {
				t.Fatal(err)
			} else if spoilt == "" {
				_ = os.Remove(path)
			}
			if restarted {
				a = newAllocator(path)
			}
			objects := append(entries(3), entry("old.com"))
			all, issues := a.assign(objects)
			if (c.fault == "") != (len(issues) == 0) || len(issues) > 0 && !strings.Contains(issues[0].Message, c.fault) {
				t.Errorf("%s: %v", name, issues)
			}
			for h, v := range first {
				if !restarted && all[h] != v {
					t.Errorf("%s: %s moved from %v to %v", name, h, v, all[h])
				}
			}
			if c.keepsIt {
				if b, _ := os.ReadFile(path); string(b) != spoilt {
					t.Errorf("%s: the file became %q", name, b)
				}
				continue
			}
			got := remembered(t, path)
			delete(got, "z.com")
			if !maps.Equal(got, all) {
				t.Errorf("%s, restarted %v: %v is remembered of %v", name, restarted, got, all)
			}
		}
	}
}
