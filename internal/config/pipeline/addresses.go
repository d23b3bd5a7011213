package pipeline

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// The ranges that Istio allocates from (PILOT_IP_AUTOALLOCATE_IPV4_PREFIX and …IPV6_PREFIX).
var (
	prefix4 = netip.MustParsePrefix("240.240.0.0/16")
	prefix6 = netip.MustParsePrefix("2001:2::/48")
)

// noAllocation is the label with which a ServiceEntry declines, when it is "false".
const noAllocation = "networking.istio.io/enable-autoallocate-ip"

// maxRemembered bounds the state file, in hosts; there are no more IPv4 addresses than that anyway.
const maxRemembered = 1 << 16

// maxStateFile bounds what is read of a state file, in bytes.
const maxStateFile = 16 << 20

// allocator gives out addresses for service hosts and never takes one back: a host that comes again gets what it had.
// It is not safe for concurrent use; several processes share one state file.
type allocator struct {
	path  string // empty: memory only
	hosts map[string]config.VIPs
	taken map[netip.Addr]bool
	full4 bool // no IPv4 address is left; none ever comes back

	file    fs.FileInfo     // the state file as it was merged last
	upto    int64           // what of it was merged, in bytes
	unsaved map[string]bool // hosts that it does not hold yet
	fault   string          // why the state file could not be used; it is tried again with the next change of the configuration

	last  []*config.Object // what was assigned to last, and what came of it
	given map[string]config.VIPs
	said  bool // there were issues
}

func newAllocator(path string) *allocator {
	return &allocator{path: path, hosts: map[string]config.VIPs{}, taken: map[netip.Addr]bool{}, unsaved: map[string]bool{}}
}

// DefaultStateFile gives $XDG_STATE_HOME/detour/addresses.json, by default below ~/.local/state; empty where there is no
// home directory.
func DefaultStateFile() string {
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "detour", "addresses.json")
}

// assign gives every service host that needs one its addresses: those stated in a status, else those it has, else new
// ones.
func (a *allocator) assign(objects []*config.Object) (map[string]config.VIPs, []config.Issue) {
	gone, come, ok := xds.Difference(a.last, objects)
	a.last = objects
	if ok && a.given != nil && !a.said && sameNeeds(gone, come) {
		return a.given, nil
	}
	given, issues := a.assignAll(objects)
	a.given, a.said = given, len(issues) > 0
	return given, issues
}

// sameNeeds tells whether the ServiceEntries among objects that come need the same addresses as those they replace.
func sameNeeds(gone, come []*config.Object) bool {
	entry := func(o *config.Object) bool { return o.Kind != config.ServiceEntry && o.Kind != config.Service }
	gone, come = slices.DeleteFunc(gone, entry), slices.DeleteFunc(come, entry)
	return slices.EqualFunc(gone, come, func(a, b *config.Object) bool {
		x, y := a.Spec.(*networking.ServiceEntry), b.Spec.(*networking.ServiceEntry)
		none := networking.ServiceEntry_NONE
		return a.Key == b.Key && slices.Equal(x.Hosts, y.Hosts) && slices.Equal(x.Addresses, y.Addresses) && (x.Resolution == none) == (y.Resolution == none) &&
			a.Labels[noAllocation] == b.Labels[noAllocation] && a.Status == nil && b.Status == nil
	})
}

// assignAll is assign without regard to what was before.
func (a *allocator) assignAll(objects []*config.Object) (map[string]config.VIPs, []config.Issue) {
	out := make(map[string]config.VIPs, len(a.given)+1) // mostly as many as last time
	stated := map[netip.Addr]bool{}
	need := make([]string, 0, len(a.given)+1)
	owner := make(map[string]*config.Object, len(a.given)+1)
	for _, o := range objects {
		se, ok := o.Spec.(*networking.ServiceEntry)
		if !ok {
			continue
		}
		for _, s := range se.Addresses {
			if ip, err := netip.ParseAddr(s); err == nil {
				stated[ip] = true
			}
		}
		if se.Resolution == networking.ServiceEntry_NONE || len(se.Addresses) > 0 || o.Labels[noAllocation] == "false" {
			continue
		}
		for _, h := range se.Hosts {
			h = strings.TrimSuffix(strings.ToLower(h), ".")
			if strings.Contains(h, "*") || owner[h] != nil {
				continue
			}
			owner[h] = o
			if v, ok := fromStatus(o, h); ok {
				out[h] = v
				stated[v.V4], stated[v.V6] = true, true
				continue
			}
			need = append(need, h)
		}
	}
	slices.Sort(need)
	issues := a.ensure(need, stated)
	for _, h := range need {
		v := a.hosts[h]
		if !v.V4.IsValid() {
			issues = append(issues, config.Warningf(owner[h], config.CodeAddressPool, "spec.hosts", "no IPv4 address is left in %s for %q; state one in spec.addresses", prefix4, h))
		}
		if v.V4.IsValid() || v.V6.IsValid() {
			out[h] = v
		}
	}
	return out, issues
}

// fromStatus gives the addresses that Istio's controller gave a host.
func fromStatus(o *config.Object, host string) (v config.VIPs, ok bool) {
	st, _ := o.Status.(*networking.ServiceEntryStatus)
	for _, a := range st.GetAddresses() {
		ip, err := netip.ParseAddr(a.Value)
		if err != nil || a.Host != "" && !strings.EqualFold(a.Host, host) {
			continue
		}
		if ip.Is4() && !v.V4.IsValid() {
			v.V4 = ip
		} else if ip.Is6() && !v.V6.IsValid() {
			v.V6 = ip
		}
	}
	return v, v.V4.IsValid() || v.V6.IsValid()
}

// ensure allocates for the hosts that have none, and remembers them. The state file is read and written under a lock,
// so that two processes never give one address to two hosts. What could not be remembered is tried again.
func (a *allocator) ensure(hosts []string, stated map[netip.Addr]bool) []config.Issue {
	missing := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { _, has := a.hosts[h]; return has })
	if len(missing) == 0 && a.fault == "" {
		return nil
	}
	f, release, err := a.open()
	defer release()
	for _, h := range missing {
		if _, has := a.hosts[h]; !has && len(a.hosts) < maxRemembered {
			v := a.allocate(h, stated)
			a.hosts[h] = v
			if v.V4.IsValid() && a.path != "" { // an IPv6 address alone is as good as certain by its hash
				a.unsaved[h] = true
			}
		}
	}
	if err == nil && len(a.unsaved) > 0 {
		err = a.save(f)
	}
	a.fault = ""
	if err != nil {
		a.fault = err.Error()
	}
	return a.faultIssue()
}

// open takes the lock and takes over what the state file says; f is nil where there is none yet.
func (a *allocator) open() (f *os.File, release func(), err error) {
	release = func() {}
	if a.path == "" {
		return nil, release, nil
	}
	tries := lockTries
	if a.fault != "" {
		tries = 1 // whoever holds the lock may be stopped: no edit waits for it again
	}
	unlock, err := lock(a.path+".lock", tries)
	if err != nil {
		return nil, release, err
	}
	f, err = os.OpenFile(a.path, os.O_RDWR|os.O_APPEND, 0)
	if errors.Is(err, fs.ErrNotExist) {
		a.restart()
		return nil, unlock, nil
	}
	if err != nil {
		return nil, unlock, err
	}
	return f, func() { _ = f.Close(); unlock() }, a.merge(f)
}

func (a *allocator) faultIssue() []config.Issue {
	if a.fault == "" {
		return nil
	}
	return []config.Issue{{Severity: config.Warning, Code: config.CodeStateFile, Origin: config.Origin{File: a.path},
		Message: "allocated addresses are not remembered and may differ after a restart: " + a.fault}}
}

// allocate picks by the host's hash, then the next that is free. The last byte is never 0 or 255: some software takes
// such addresses for a network's.
func (a *allocator) allocate(host string, stated map[netip.Addr]bool) (v config.VIPs) {
	h := fnv.New64a()
	h.Write([]byte(host))
	sum := h.Sum64()
	free := func(ip netip.Addr, last byte) bool { return last != 0 && last != 255 && !a.taken[ip] && !stated[ip] }
	for i := uint64(0); i < 1<<16 && !a.full4; i++ {
		n := uint16(sum>>32 + i)
		b := prefix4.Addr().As4()
		binary.BigEndian.PutUint16(b[2:], n)
		if ip := netip.AddrFrom4(b); free(ip, b[3]) {
			v.V4 = ip
			a.taken[ip] = true
			break
		}
	}
	a.full4 = !v.V4.IsValid()
	for i := range uint64(1 << 16) {
		b := prefix6.Addr().As16()
		binary.BigEndian.PutUint64(b[8:], sum+i)
		if ip := netip.AddrFrom16(b); free(ip, b[15]) {
			v.V6 = ip
			a.taken[ip] = true
			break
		}
	}
	return v
}

// stateFile is the form of the state file, which is a row of them: each adds hosts to those before it.
type stateFile struct {
	Version   int                     `json:"version"`
	Addresses map[string][]netip.Addr `json:"addresses"`
}

// merge takes over what was added to the state file since the last time. The caller holds the lock.
func (a *allocator) merge(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxStateFile {
		return fmt.Errorf("it has %d bytes, at most %d are read", info.Size(), maxStateFile)
	}
	if a.file == nil || !os.SameFile(a.file, info) || info.Size() < a.upto {
		a.restart()
	}
	a.file = info
	start := a.upto
	err = a.mergeRest(f, info.Size())
	if err != nil && start > 0 { // it may have been edited in place
		a.restart()
		err = a.mergeRest(f, info.Size())
	}
	return err
}

// restart forgets what is known of the state file's contents: it is another one, or none.
func (a *allocator) restart() {
	a.upto = 0
	for h, v := range a.hosts {
		if v.V4.IsValid() {
			a.unsaved[h] = true
		}
	}
}

// mergeRest takes over what stands between upto and size. Additions end with a newline: one that is cut off was not
// written to its end, by a process that was killed or a machine that stopped, and is taken away.
func (a *allocator) mergeRest(f *os.File, size int64) error {
	b := make([]byte, size-a.upto)
	if _, err := f.ReadAt(b, a.upto); err != nil {
		return err
	}
	start, d := a.upto, json.NewDecoder(bytes.NewReader(b))
	for {
		var s stateFile
		err := d.Decode(&s)
		if err == io.EOF {
			a.upto = size
			return nil
		}
		if err != nil && start == 0 && a.upto > 0 && !bytes.HasSuffix(b, []byte("\n")) {
			return f.Truncate(a.upto)
		}
		if err != nil {
			return fmt.Errorf("not a state file: %w", err)
		}
		a.take(s.Addresses)
		a.upto = start + d.InputOffset()
	}
}

// take remembers what the state file says of hosts that have no address yet. Addresses outside the ranges, or of
// another host, are left out: the file may have been edited.
func (a *allocator) take(addresses map[string][]netip.Addr) {
	for _, host := range slices.Sorted(maps.Keys(addresses)) {
		if v, has := a.hosts[host]; has || len(a.hosts) >= maxRemembered {
			if slices.Equal(addresses[host], []netip.Addr{v.V4, v.V6}) {
				delete(a.unsaved, host)
			}
			continue
		}
		var v config.VIPs
		for _, ip := range addresses[host] {
			switch {
			case a.taken[ip]:
			case prefix4.Contains(ip) && !v.V4.IsValid():
				v.V4 = ip
			case prefix6.Contains(ip) && !v.V6.IsValid():
				v.V6 = ip
			}
		}
		if v.V4.IsValid() && v.V6.IsValid() {
			a.hosts[host] = v
			a.taken[v.V4], a.taken[v.V6] = true, true
		}
	}
}

// save adds the hosts that are not in the state file yet. The caller holds the lock and has merged f.
//
// An addition is one write to the end of the file and is not waited for to reach the disk: an edit of the configuration
// is served only after this, and writing the file anew took longer than all the rest of such an edit. What was written
// outlives this process however it ends. A machine that stops may lose the last additions, and with it end all who were
// given those addresses: they lead nowhere but to a detour on it. It can't lose those before them, since no byte that
// stands is written again; what may be left of a half addition, see mergeRest. Only a file's beginning is waited for,
// because nothing of one without it would be read.
func (a *allocator) save(f *os.File) error {
	s := stateFile{Version: 1, Addresses: map[string][]netip.Addr{}}
	for host := range a.unsaved {
		v := a.hosts[host]
		s.Addresses[host] = []netip.Addr{v.V4, v.V6}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if f == nil || a.upto == 0 {
		err = a.create(b)
	} else if _, err = f.Write(b); err != nil {
		_ = f.Truncate(a.upto)
	}
	if err == nil {
		a.upto += int64(len(b))
		clear(a.unsaved)
	}
	return err
}

// create makes the state file, or replaces an empty one, in one step.
func (a *allocator) create(b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(a.path), ".addresses-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	info, statErr := tmp.Stat()
	if err = errors.Join(err, statErr, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), a.path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return err
	}
	a.file, a.upto = info, 0
	return nil
}

// lockTries is how often the lock is tried, lockEvery apart, before this process goes on without it. It counts tries, not
// time: on a machine that stands still for a while, nobody had the lock for that long.
const (
	lockTries = 100
	lockEvery = 5 * time.Millisecond
)

// lock takes an advisory lock on a file beside the state file and makes their folder. The lock ends with the process.
func lock(path string, tries int) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for ; ; time.Sleep(lockEvery) {
		err := tryLock(f)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if tries--; tries <= 0 {
			_ = f.Close()
			return nil, fmt.Errorf("%s: held by another process: %w", path, err)
		}
	}
}
