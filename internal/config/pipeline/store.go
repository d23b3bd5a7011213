package pipeline

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/source"
	"detour.dev/detour/internal/config/validate"
)

// store holds, for each file, what it says now and what of it is served. Time comes from its caller.
type store struct {
	files   map[string]*file
	order   []*file // all files, in path order; those that are gone stay until they are settled
	issues  []config.Issue
	changed bool
	round   uint64 // updates so far
	// times is how often each object is served, in one file or in several; twice, how many are more than once.
	times map[config.Key]int
	twice int
}

// file is one file: its present contents, judged, and the objects that are served of it.
type file struct {
	name    string
	decoder decode.Decoder
	// known are the objects that were judged last, and what was said of those of which anything was.
	known    []*config.Object
	verdicts map[*config.Object]validate.Verdict

	judged judgement
	data   []byte
	since  time.Time // when data came
	seen   time.Time // when the source last saw it so; zero: the clock decides whether it has stood still
	whole  bool
	gone   bool   // not in the source any more
	round  uint64 // the last update that had it
	// settled: all of judged is in force.
	settled bool

	served  []*config.Object // in document order
	refused []config.Refusal // of the last settled contents
	issues  []config.Issue   // of the last settled contents
}

// judgement is what decode and validate make of one file's contents.
type judgement struct {
	objects []*config.Object              // good
	byKey   map[config.Key]*config.Object // of objects, the first of each key; nil until first asks for it
	bad     map[config.Key]bool
	refused []config.Refusal
	issues  []config.Issue
	parsed  bool
}

func newStore() *store { return &store{files: map[string]*file{}, times: map[config.Key]int{}} }

// judge decodes and validates the file's contents. What is as it was is not judged again.
func (f *file) judge(name string) {
	r := f.decoder.Read(name, f.data)
	j := judgement{issues: r.Issues, parsed: r.Parsed, refused: r.Refused}
	verdict := f.judges(len(r.Objects) + len(r.Partial))
	for _, o := range r.Objects {
		v := verdict(o)
		j.issues = append(j.issues, v.Issues...)
		switch {
		case v.Rejected:
			j.refused = append(j.refused, refusal(o, v.Issues))
		case !v.Ignored:
			j.objects = append(j.objects, o)
		}
	}
	for _, p := range r.Partial {
		for _, i := range verdict(p.Object).Issues {
			if i.Severity == config.Error && p.Trusts(i.Field) {
				j.issues = append(j.issues, i)
			}
		}
	}
	for _, r := range j.refused {
		if j.bad == nil {
			j.bad = map[config.Key]bool{}
		}
		j.bad[r.Key] = true
	}
	j.objects = slices.Clip(j.objects)
	f.judged = j
}

// judges gives a function that validates an object, and takes the verdict on one that was judged before from there. What
// it is not asked for is forgotten.
func (f *file) judges(n int) func(*config.Object) validate.Verdict {
	rest, verdicts := f.known, f.verdicts
	f.known, f.verdicts = make([]*config.Object, 0, n), nil
	var others map[proto.Message]*config.Object // of rest, once they come in another order
	earlier := func(o *config.Object) *config.Object {
		switch {
		case len(rest) > 0 && o.SameAs(rest[0]):
			old := rest[0]
			rest = rest[1:]
			return old
		case len(rest) > 0 && others == nil:
			others = make(map[proto.Message]*config.Object, len(rest))
			for _, r := range rest {
				others[r.Spec] = r
			}
		}
		return others[o.Spec]
	}
	return func(o *config.Object) validate.Verdict {
		var v validate.Verdict
		if old := earlier(o); old != nil {
			if v = verdicts[old]; old.Origin.Line != o.Origin.Line {
				v = v.Moved(o.Origin.Line - old.Origin.Line)
			}
		} else {
			v = validate.Object(o)
		}
		f.known = append(f.known, o)
		if len(v.Issues) > 0 || v.Rejected || v.Ignored {
			if f.verdicts == nil {
				f.verdicts = map[*config.Object]validate.Verdict{}
			}
			f.verdicts[o] = v
		}
		return v
	}
}

// first gives the good object with that key that stands first; likely is where it may be.
func (j *judgement) first(k config.Key, likely int) *config.Object {
	if likely >= 0 && likely < len(j.objects) && j.byKey == nil && j.objects[likely].Key == k {
		return j.objects[likely]
	}
	if j.byKey == nil {
		j.byKey = make(map[config.Key]*config.Object, len(j.objects))
		for _, o := range j.objects {
			if j.byKey[o.Key] == nil {
				j.byKey[o.Key] = o
			}
		}
	}
	return j.byKey[k]
}

func refusal(o *config.Object, issues []config.Issue) config.Refusal {
	return config.Refusal{Key: o.Key, Hosts: hostsOf(o), Issue: errorsOf(issues)[0]}
}

// hostsOf gives the hosts an object is about, in lower case.
func hostsOf(o *config.Object) []string {
	var hosts []string
	switch s := o.Spec.(type) {
	case *networking.ServiceEntry:
		hosts = slices.Clone(s.Hosts)
	case *networking.DestinationRule:
		hosts = []string{s.Host}
	case *networking.VirtualService:
		hosts = slices.Clone(s.Hosts)
	}
	for i, h := range hosts {
		hosts[i] = strings.ToLower(h)
	}
	return hosts
}

// update takes the full set of a source's files.
func (s *store) update(u source.Update, now time.Time) {
	if !u.At.IsZero() {
		now = u.At
	}
	if !slices.Equal(s.issues, u.Issues) {
		s.issues, s.changed = u.Issues, true
	}
	s.round++
	order := make([]*file, 0, max(len(u.Files), len(s.order)))
	for i, in := range u.Files {
		var f *file
		if i < len(s.order) && s.order[i].name == in.Name { // as mostly: found without a map
			f = s.order[i]
		} else if f = s.files[in.Name]; f == nil {
			f = &file{name: in.Name}
			s.files[in.Name] = f
		}
		f.round = s.round
		order = append(order, f)
		if f.since.IsZero() || f.gone || !bytes.Equal(f.data, in.Data) {
			f.data, f.whole, f.since, f.seen, f.gone, f.settled = in.Data, in.Whole, now, u.At, false, false
			f.judge(in.Name)
		} else {
			f.confirm(u.At)
		}
	}
	for _, f := range s.order { // files that are gone keep their place for as long as they serve
		if f.round == s.round {
			continue
		}
		if !f.gone {
			f.data, f.whole, f.since, f.seen, f.gone, f.settled = nil, false, now, u.At, true, false
			f.judged = judgement{parsed: true}
			f.decoder, f.known, f.verdicts = decode.Decoder{}, nil, nil
		}
		f.confirm(u.At)
		order = append(order, f)
	}
	s.order = order
}

// confirm takes note that the source saw the file as it was.
func (f *file) confirm(at time.Time) {
	if !f.seen.IsZero() {
		f.seen = at
	}
}

// stood tells whether the file has not changed for long enough.
func (f *file) stood(now time.Time) bool {
	if !f.seen.IsZero() {
		now = f.seen
	}
	return now.Sub(f.since) >= StandStill
}

// advance brings into force what may be by now, everything if all is set, and tells whether anything changed since the
// last call.
func (s *store) advance(now time.Time, all bool) bool {
	var due []*file
	for _, f := range s.order {
		if f.settled {
			continue
		}
		if all || f.whole || f.stood(now) {
			due = append(due, f)
		} else if f.keepWhatStays() {
			s.changed = true
		}
	}
	for _, f := range due {
		f.settled = true
	}
	for _, f := range due {
		s.count(f.served, -1)
		f.settle(s.comes, now)
		s.count(f.served, 1)
		s.changed = true
	}
	s.order = slices.DeleteFunc(s.order, func(f *file) bool {
		if f.gone && f.settled && len(f.served) == 0 {
			delete(s.files, f.name)
			return true
		}
		return false
	})
	changed := s.changed
	s.changed = false
	return changed
}

// count notes that objects are served n times more. Whoever changes what a file serves to other objects calls it.
func (s *store) count(objects []*config.Object, n int) {
	for _, o := range objects {
		was := s.times[o.Key]
		switch is := was + n; {
		case is == 0:
			delete(s.times, o.Key)
		default:
			s.times[o.Key] = is
		}
		if was > 1 {
			s.twice--
		}
		if was+n > 1 {
			s.twice++
		}
	}
}

// nextDeadline gives the time at which the next file has stood still, of those that no source confirms.
func (s *store) nextDeadline() (next time.Time, ok bool) {
	for _, f := range s.order {
		if t := f.since.Add(StandStill); !f.settled && f.seen.IsZero() && (!ok || t.Before(next)) {
			next, ok = t, true
		}
	}
	return next, ok
}

// comes tells whether a file that has not settled yet holds a good object with that key: an object that moves from one
// file to another must not be missing in between.
func (s *store) comes(k config.Key) bool {
	for _, f := range s.order {
		if !f.settled && f.judged.first(k, -1) != nil {
			return true
		}
	}
	return false
}

// keepWhatStays brings into force, of contents that have not stood still, what takes nothing away. A last line without
// its end is being written: nothing of such contents is taken.
func (f *file) keepWhatStays() (changed bool) {
	if f.gone || !bytes.HasSuffix(f.data, []byte("\n")) {
		return false
	}
	for i, old := range f.served {
		n := f.judged.first(old.Key, i)
		if n != nil && n != old && (n.SameAs(old) || covers(n, old)) {
			f.served[i] = n
			changed = true
		}
	}
	return changed
}

// settle brings all of the file's contents into force: its good objects, and of those that are bad, that can't be told
// because the file does not parse, or that come in another file, the last good version.
func (f *file) settle(comes func(config.Key) bool, now time.Time) {
	objects := slices.Clone(f.judged.objects)
	here, kept := map[config.Key]bool{}, map[config.Key]bool{}
	if len(f.served) > 0 {
		for _, o := range objects {
			here[o.Key] = true
		}
	}
	for _, old := range f.served {
		moving := !here[old.Key] && comes(old.Key)
		if !here[old.Key] && !kept[old.Key] && (f.judged.bad[old.Key] || !f.judged.parsed || moving) {
			objects = append(objects, old)
			kept[old.Key] = true
			if moving && !f.judged.bad[old.Key] && f.judged.parsed {
				f.settled, f.since, f.seen = false, now, time.Time{} // look again when the other file may have settled
			}
		}
	}
	f.served, f.issues, f.refused = objects, f.judged.issues, f.judged.refused
	f.judged.byKey = nil
}

// result is what is served of all files together.
type result struct {
	objects []*config.Object
	refused []config.Refusal
	issues  []config.Issue
}

// serves tells whether an object of the refused one's kind serves one of its hosts: the last good version of an object
// whose name got lost.
func (r *result) serves(refused config.Refusal) bool {
	return slices.ContainsFunc(r.objects, func(o *config.Object) bool {
		return o.Kind == refused.Key.Kind && slices.ContainsFunc(hostsOf(o), func(h string) bool { return slices.Contains(refused.Hosts, h) })
	})
}

// result merges the files: of objects with the same key the first in path and document order serves.
func (s *store) result() result {
	r := result{issues: slices.Clone(s.issues), objects: make([]*config.Object, 0, len(s.times))}
	refused := false
	for _, f := range s.order {
		r.issues = append(r.issues, f.issues...)
		refused = refused || len(f.refused) > 0
		if s.twice == 0 {
			r.objects = append(r.objects, f.served...)
		}
	}
	if s.twice > 0 {
		s.firsts(&r)
	}
	if !refused {
		return r
	}
	for _, f := range s.order {
		for _, refused := range f.refused {
			if s.times[refused.Key] == 0 && !(refused.Key.Name == "" && r.serves(refused)) {
				r.refused = append(r.refused, refused)
			}
		}
	}
	slices.SortStableFunc(r.refused, func(a, b config.Refusal) int {
		switch {
		case a.Key.Less(b.Key):
			return -1
		case b.Key.Less(a.Key):
			return 1
		}
		return 0
	})
	return r
}

// firsts collects the objects that stand first, and says of the others that they do not.
func (s *store) firsts(r *result) {
	type place struct {
		o *config.Object
		f *file
	}
	first := map[config.Key]place{}
	for _, f := range s.order {
		for _, o := range f.served {
			p, taken := first[o.Key]
			if !taken {
				first[o.Key] = place{o, f}
				r.objects = append(r.objects, o)
				continue
			}
			if p.f.settled && f.settled { // else it may be on its way from one to the other
				r.issues = append(r.issues, config.Errorf(o, config.CodeDuplicate, "", "stands a second time; the one at %s serves, remove one of them", p.o.Origin))
			}
		}
	}
}
