package lb

import (
	"cmp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Policy is how a cluster's endpoints are chosen from. It is immutable.
type Policy struct {
	Algorithm Algorithm
	Params    Params
	// Overprovisioning is policy.overprovisioning_factor in percent; 0: DefaultOverprovisioning.
	Overprovisioning uint32
	// PanicThreshold is common_lb_config.healthy_panic_threshold in percent; 0: no panic.
	PanicThreshold float64
	// FailOnPanic is zone_aware_lb_config.fail_traffic_on_panic.
	FailOnPanic bool
	// LocalityWeighted: locality_weighted_lb_config is set.
	LocalityWeighted bool
	// WeightedPriorityHealth is ClusterLoadAssignment.policy.weighted_priority_health.
	WeightedPriorityHealth bool
	// CrossPriority: a suspect endpoint is passed over in favour of another priority's (E3: where outlierDetection is set).
	CrossPriority bool
	// CompatEnvoy: tried endpoints are avoided as Envoy's previous_hosts predicate does, by picking again up to 5 times.
	CompatEnvoy bool
}

// HostSet is the endpoints of one cluster at one moment: priorities, which of them are healthy, and what share of the
// requests each takes. It is immutable, but for the turn counters of its algorithms; a change makes a new one.
type HostSet struct {
	policy *Policy
	all    []*Endpoint
	tiers  []Tier
	load   []TierLoad
	id     *byte
}

// Tier is one priority.
type Tier struct {
	Endpoints []*Endpoint
	Healthy   []*Endpoint

	chooser    Chooser   // over Healthy, or Endpoints in panic; nil if there is none
	made                 // instead of all else, where the algorithm is one by hash
	localities []Chooser // with locality weights and outside panic
	byLocality *stride
}

// NewHostSet sorts endpoints into priorities as they are at this moment. The slice is kept.
func NewHostSet(p *Policy, eps []*Endpoint) *HostSet {
	s := (*HostSet)(nil).Next(p, eps)
	s.Finish()
	return s
}

// Next is NewHostSet for what follows on s, which may be nil: it takes little time, and leaves large tables to Finish.
func (s *HostSet) Next(p *Policy, eps []*Endpoint) *HostSet {
	next := &HostSet{policy: p, all: eps, id: new(byte)}
	for _, e := range eps {
		for int(e.Priority) >= len(next.tiers) { // validated to be below 128 (EDS proto)
			next.tiers = append(next.tiers, Tier{})
		}
		t := &next.tiers[e.Priority]
		t.Endpoints = append(t.Endpoints, e)
		if e.Usable() {
			t.Healthy = append(t.Healthy, e)
		}
	}
	health := make([]TierHealth, len(next.tiers))
	for i := range next.tiers {
		health[i] = next.tiers[i].health(p)
	}
	over := p.Overprovisioning
	if over == 0 {
		over = DefaultOverprovisioning
	}
	next.load = Loads(health, over, p.PanicThreshold)
	for i := range next.tiers {
		next.tiers[i].compile(p, next.load[i].Panic, over, s.table(p, i))
	}
	return next
}

// table gives what the algorithm by hash of a priority was made of, and nothing where there is none that could stand in for
// the next.
func (s *HostSet) table(p *Policy, priority int) (t made) {
	if s != nil && s.policy.Algorithm == p.Algorithm && priority < len(s.tiers) {
		t = s.tiers[priority].made
		t.current = s.policy == p
	}
	return t
}

func (t *Tier) health(p *Policy) (h TierHealth) {
	if !p.WeightedPriorityHealth {
		return TierHealth{uint64(len(t.Endpoints)), uint64(len(t.Healthy))}
	}
	for _, e := range t.Endpoints {
		h.Hosts += uint64(e.Weight)
	}
	for _, e := range t.Healthy {
		h.Healthy += uint64(e.Weight)
	}
	return h
}

func (t *Tier) compile(p *Policy, panic bool, over uint32, before made) {
	from := t.Healthy
	if panic {
		from = t.Endpoints
	}
	if p.Algorithm.hashed() {
		t.compileHashed(p, from, before)
		return
	}
	if len(from) > 0 {
		t.chooser = NewChooser(p.Algorithm, from, p.Params)
	}
	if p.LocalityWeighted && !panic {
		t.compileLocalities(p, over)
	}
}

// compileHashed makes the ring or table of a priority. As in ThreadAwareLoadBalancerBase, localities count with their plain
// weights, whatever share of them is healthy, and in panic too.
func (t *Tier) compileHashed(p *Policy, from []*Endpoint, before made) {
	shares := flatShares(from)
	if p.LocalityWeighted {
		groups := byLocality(t.Endpoints)
		var sum float64
		for _, g := range groups {
			sum += float64(g.weight)
		}
		shares = nil
		for _, g := range groups {
			if g.weight == 0 {
				continue
			}
			if len(from) < len(t.Endpoints) {
				g.all = g.healthy
			}
			shares = addShares(shares, g.all, float64(g.weight)/sum)
		}
	}
	t.shares = shares
	switch {
	case len(shares) == 0:
	case before.current && slices.Equal(shares, before.shares):
		t.byHash = before.byHash
	case large(p.Algorithm, shares, p.Params):
		t.byHash = newLater(p.Algorithm, shares, p.Params, before.byHash)
	default:
		t.byHash = newHashed(p.Algorithm, shares, p.Params)
	}
}

// locality is the endpoints of one locality in one priority.
type locality struct {
	name         *corev3.Locality
	weight       uint32
	all, healthy []*Endpoint
}

// byLocality groups endpoints in the order that Envoy keeps localities in: by region, zone and subzone.
func byLocality(eps []*Endpoint) []*locality {
	index := map[string]*locality{}
	var groups []*locality
	for _, e := range eps {
		name := LocalityName(e.Locality)
		g := index[name]
		if g == nil {
			g = &locality{name: e.Locality, weight: e.LocalityWeight}
			index[name] = g
			groups = append(groups, g)
		}
		g.all = append(g.all, e)
		if e.Usable() {
			g.healthy = append(g.healthy, e)
		}
	}
	slices.SortStableFunc(groups, func(a, b *locality) int {
		return cmp.Or(cmp.Compare(a.name.GetRegion(), b.name.GetRegion()), cmp.Compare(a.name.GetZone(), b.name.GetZone()),
			cmp.Compare(a.name.GetSubZone(), b.name.GetSubZone()))
	})
	return groups
}

// compileLocalities weighs localities by load_balancing_weight × min(1, overprovisioning × healthy / all), as Envoy does.
// Without any weight above 0 the priority is balanced as one.
func (t *Tier) compileLocalities(p *Policy, over uint32) {
	var weights []uint64
	for _, g := range byLocality(t.Endpoints) {
		available := min(1, float64(over)/100*float64(len(g.healthy))/float64(len(g.all)))
		w := uint64(float64(g.weight) * available * 1000) // thousandths, so that small weights keep their proportion
		if w == 0 || len(g.healthy) == 0 {
			continue
		}
		weights = append(weights, w)
		t.localities = append(t.localities, NewChooser(p.Algorithm, g.healthy, p.Params))
	}
	if len(weights) > 0 {
		t.byLocality = newStride(weights)
	}
}

func (t *Tier) choose(in *PickInfo) *Endpoint {
	if t.byLocality != nil {
		return t.localities[t.byLocality.next()].Choose(in)
	}
	if t.chooser == nil {
		return nil
	}
	return t.chooser.Choose(in)
}

// Policy gives what the set was made with.
func (s *HostSet) Policy() *Policy { return s.policy }

// ID is another (==) for each set. Unlike a pointer to the set it holds none of it: tables are large.
func (s *HostSet) ID() any { return s.id }

// Endpoints lists all endpoints, in configuration order; it must not be changed.
func (s *HostSet) Endpoints() []*Endpoint { return s.all }

// Tiers lists the priorities, 0 first; it must not be changed.
func (s *HostSet) Tiers() []Tier { return s.tiers }

// Loads gives the share of each priority.
func (s *HostSet) Loads() []TierLoad { return s.load }

// Healthy counts the endpoints that may be picked outside panic.
func (s *HostSet) Healthy() (n int) {
	for i := range s.tiers {
		n += len(s.tiers[i].Healthy)
	}
	return n
}

// Pick chooses a priority by its share, then an endpoint of it. The order of preference, when that endpoint is tried,
// suspect, or ejected since the set was made: others of the same priority; then other priorities, nearest first; then
// suspect endpoints; then, for a retry, ejected ones, longest ejected first. The Result has no reporter yet.
func (s *HostSet) Pick(in *PickInfo) (Result, error) {
	if len(s.all) == 0 {
		return Result{}, ErrNoHosts
	}
	if s.policy.Algorithm.hashed() {
		return s.pickHashed(in)
	}
	p := s.choosePriority(in)
	inPanic := s.load[p].Panic
	if inPanic && s.policy.FailOnPanic {
		return Result{}, ErrNoHealthyHost
	}
	e := s.tiers[p].choose(in)
	if s.policy.CompatEnvoy {
		for i := 0; i < reselect && e != nil && in.Exhausted(e.Host); i++ {
			e = s.tiers[s.choosePriority(in)].choose(in)
		}
		if e == nil {
			return Result{}, ErrNoHealthyHost
		}
		return Result{Endpoint: e, Panic: inPanic}, nil
	}
	if e != nil && in.fits(e, inPanic) {
		return Result{Endpoint: e, Panic: inPanic}, nil
	}
	return s.search(in, p, e)
}

const (
	// reselect is how often Envoy chooses again when the endpoint was tried (Istio's host_selection_retry_max_attempts).
	reselect = 5
	// detours is how many alternatives for a hash are looked at before any other endpoint will do.
	detours = 16
)

// pickHashed is Pick where a hash decides: it chooses the priority too. While the endpoint that it belongs to can't be used,
// all requests with one hash go to the same other one.
func (s *HostSet) pickHashed(in *PickInfo) (Result, error) {
	h := in.hash()
	p := s.priorityAt(uint32(h%100) + 1)
	table, inPanic := s.tiers[p].byHash, s.load[p].Panic
	if table == nil {
		if s.policy.CompatEnvoy {
			return Result{}, ErrNoHealthyHost
		}
		return s.search(in, p, nil)
	}
	first := table.at(h, 0)
	if s.policy.CompatEnvoy {
		e := first
		for i := uint32(1); i <= reselect && in.Exhausted(e.Host); i++ {
			e = table.at(h, i)
		}
		return Result{Endpoint: e, Panic: inPanic}, nil
	}
	for i, e := uint32(1), first; i <= detours; i++ {
		if in.fits(e, inPanic) {
			return Result{Endpoint: e, Panic: inPanic}, nil
		}
		e = table.at(h, i)
	}
	return s.search(in, p, first)
}

// fits tells whether an endpoint that the algorithm chose may be used now.
func (p *PickInfo) fits(e *Endpoint, inPanic bool) bool {
	return (inPanic || !e.Ejected()) && !e.Suspect() && !p.Exhausted(e.Host)
}

// choosePriority draws by share.
func (s *HostSet) choosePriority(in *PickInfo) int {
	if in.Exclude != (Priorities{}) {
		if p, ok := s.chooseOther(in); ok {
			return p
		}
	}
	if s.load[0].Load == 100 {
		return 0
	}
	return s.priorityAt(uint32(below(in.random(), 100)) + 1)
}

// priorityAt gives the first priority whose cumulated load reaches a value from 1 to 100, as Envoy does.
func (s *HostSet) priorityAt(at uint32) int {
	var sum uint32
	for i := range s.load {
		if sum += s.load[i].Load; at <= sum {
			return i
		}
	}
	return 0
}
