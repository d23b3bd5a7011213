// Command table measures what large configurations cost: 1,000, 5,000 and 20,000 ServiceEntries with four endpoints and a
// DestinationRule each, in full and after one change. It prints a table and, with -write, puts it into a document between
// the lines <!-- scale:begin --> and <!-- scale:end -->.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"detour.dev/detour/bench/scale"
	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/pipeline"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

func main() {
	write := flag.String("write", "", "the document that gets the table")
	flag.Parse()
	if err := run(*write); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(document string) error {
	var b strings.Builder
	b.WriteString("| ServiceEntries | YAML to snapshot | allocated | held | an endpoint changes | a policy changes | a service comes |\n|---|---|---|---|---|---|---|\n")
	for _, n := range []int{1000, 5000, 20000} {
		row, err := measure(n)
		if err != nil {
			return err
		}
		b.WriteString(row)
	}
	fmt.Print(b.String())
	if document == "" {
		return nil
	}
	return replace(document, b.String())
}

// usage is what the process allocated so far and holds now, in bytes.
func usage() (allocated, held uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc, m.HeapAlloc
}

var group = xds.NodeGroup{IPv4: true, IPv6: true, Locality: &corev3.Locality{Region: "r0", Zone: "z0"}}

// measure gives one row.
func measure(n int) (string, error) {
	dir, err := os.MkdirTemp("", "scale")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("h%05d.yaml", i)), []byte(scale.Document(i, 10)), 0o600); err != nil {
			return "", err
		}
	}
	allocated, held := usage()
	begin := time.Now()
	set, issues, err := pipeline.LoadOnce([]string{dir}, nil)
	if err != nil || len(issues) > 0 {
		return "", errors.Join(err, fmt.Errorf("%v", issues))
	}
	c := translate.NewCompiler(group)
	snap, _ := c.Translate(set)
	took := time.Since(begin)
	allocatedAfter, heldAfter := usage()
	row := fmt.Sprintf("| %d | %.2f s | %d MB | %d MB |", n, took.Seconds(), (allocatedAfter-allocated)>>20, (heldAfter-held)>>20)
	for _, edit := range []func(int, *config.Set) *config.Set{endpoint, policy, comes} {
		var times []time.Duration
		var bytes []uint64
		for i := range 15 {
			set = edit(i, set)
			before, _ := usage()
			begin := time.Now()
			snap, _ = c.Translate(set)
			times = append(times, time.Since(begin))
			after, _ := usage()
			bytes = append(bytes, after-before)
		}
		slices.Sort(times)
		slices.Sort(bytes)
		row += fmt.Sprintf(" %.1f ms, %.1f MB |", float64(times[len(times)/2].Microseconds())/1000, float64(bytes[len(bytes)/2])/(1<<20))
	}
	runtime.KeepAlive(snap)
	return row + "\n", nil
}

// with gives the set with one object in another version.
func with(set *config.Set, kind config.Kind, i int, change func(proto.Message)) *config.Set {
	old := set.All(kind)[i*67%len(set.All(kind))]
	o := *old
	o.Spec = proto.Clone(o.Spec)
	change(o.Spec)
	return rebuilt(set, old, &o)
}

func rebuilt(set *config.Set, old, now *config.Object) *config.Set {
	var objects []*config.Object
	vips := map[string]config.VIPs{}
	for _, k := range []config.Kind{config.ServiceEntry, config.DestinationRule} {
		for _, o := range set.All(k) {
			if o == old {
				o = now
			}
			objects = append(objects, o)
			if k == config.ServiceEntry {
				host := field(o.Spec, "hosts").List().Get(0).String()
				vips[host], _ = set.VIPs(host)
			}
		}
	}
	if old == nil {
		objects = append(objects, now)
	}
	return config.NewSet(objects, vips, nil)
}

// field gives a field of a message; Istio's types are known in internal/config only.
func field(m proto.Message, name protoreflect.Name) protoreflect.Value {
	r := m.ProtoReflect()
	return r.Get(r.Descriptor().Fields().ByName(name))
}

func put(m proto.Message, name protoreflect.Name, v protoreflect.Value) {
	r := m.ProtoReflect()
	r.Set(r.Descriptor().Fields().ByName(name), v)
}

func endpoint(i int, set *config.Set) *config.Set {
	return with(set, config.ServiceEntry, i, func(m proto.Message) {
		put(field(m, "endpoints").List().Get(0).Message().Interface(), "weight", protoreflect.ValueOfUint32(uint32(20+i)))
	})
}

func policy(i int, set *config.Set) *config.Set {
	return with(set, config.DestinationRule, i, func(m proto.Message) {
		outlier := field(field(m, "traffic_policy").Message().Interface(), "outlier_detection").Message().Interface()
		put(field(outlier, "interval").Message().Interface(), "seconds", protoreflect.ValueOfInt64(int64(20+i)))
	})
}

func comes(i int, set *config.Set) *config.Set {
	o := *set.All(config.ServiceEntry)[0]
	o.Name = fmt.Sprintf("new%d", i)
	o.Spec = proto.Clone(o.Spec)
	field(o.Spec, "hosts").List().Set(0, protoreflect.ValueOfString(o.Name+".example.com"))
	return rebuilt(set, nil, &o)
}

const marker, end = "<!-- scale:begin -->\n", "<!-- scale:end -->"

func replace(path, table string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(b, []byte(marker))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", path, strings.TrimSpace(marker), end)
	}
	return os.WriteFile(path, slices.Concat(before, []byte(marker), []byte(table), []byte(end), after), 0o644)
}
