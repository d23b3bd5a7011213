package lb

import (
	"math/rand/v2"
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
}

// Tier is one priority.
type Tier struct {
	Endpoints []*Endpoint
	Healthy   []*Endpoint

	chooser    Chooser   // over Healthy, or Endpoints in panic; nil if there is none
	localities []Chooser // with locality weights and outside panic
	byLocality *stride
}

// NewHostSet sorts endpoints into priorities as they are at this moment. The slice is kept.
func NewHostSet(p *Policy, eps []*Endpoint) *HostSet {
	s := &HostSet{policy: p, all: eps}
	for _, e := range eps {
		for int(e.Priority) >= len(s.tiers) { // validated to be below 128 (EDS proto)
			s.tiers = append(s.tiers, Tier{})
		}
		t := &s.tiers[e.Priority]
		t.Endpoints = append(t.Endpoints, e)
		if e.Usable() {
			t.Healthy = append(t.Healthy, e)
		}
	}
	health := make([]TierHealth, len(s.tiers))
	for i := range s.tiers {
		health[i] = s.tiers[i].health(p)
	}
	over := p.Overprovisioning
	if over == 0 {
		over = DefaultOverprovisioning
	}
	s.load = Loads(health, over, p.PanicThreshold)
	for i := range s.tiers {
		s.tiers[i].compile(p, s.load[i].Panic, over)
	}
	return s
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

func (t *Tier) compile(p *Policy, panic bool, over uint32) {
	from := t.Healthy
	if panic {
		from = t.Endpoints
	}
	if len(from) > 0 {
		t.chooser = NewChooser(p.Algorithm, from, p.Params)
	}
	if p.LocalityWeighted && !panic {
		t.compileLocalities(p, over)
	}
}

// compileLocalities weighs localities by load_balancing_weight × min(1, overprovisioning × healthy / all), as Envoy does.
// Without any weight above 0 the priority is balanced as one.
func (t *Tier) compileLocalities(p *Policy, over uint32) {
	type group struct {
		weight       uint32
		all, healthy []*Endpoint
	}
	var names []string
	groups := map[string]*group{}
	for _, e := range t.Endpoints {
		name := LocalityName(e.Locality)
		g := groups[name]
		if g == nil {
			g = &group{weight: e.LocalityWeight}
			groups[name] = g
			names = append(names, name)
		}
		g.all = append(g.all, e)
		if e.Usable() {
			g.healthy = append(g.healthy, e)
		}
	}
	var weights []uint64
	for _, name := range names {
		g := groups[name]
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

func (t *Tier) choose(rnd func() uint64) *Endpoint {
	if t.byLocality != nil {
		return t.localities[t.byLocality.next()].Choose(rnd)
	}
	if t.chooser == nil {
		return nil
	}
	return t.chooser.Choose(rnd)
}

// Policy gives what the set was made with.
func (s *HostSet) Policy() *Policy { return s.policy }

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
	rnd := in.Rand
	if rnd == nil {
		rnd = rand.Uint64
	}
	p := s.choosePriority(rnd)
	inPanic := s.load[p].Panic
	if inPanic && s.policy.FailOnPanic {
		return Result{}, ErrNoHealthyHost
	}
	e := s.tiers[p].choose(rnd)
	if s.policy.CompatEnvoy {
		for i := 0; i < 5 && e != nil && in.tried(e.Host); i++ {
			e = s.tiers[s.choosePriority(rnd)].choose(rnd)
		}
		if e == nil {
			return Result{}, ErrNoHealthyHost
		}
		return Result{Endpoint: e, Panic: inPanic}, nil
	}
	if e != nil && (inPanic || !e.Ejected()) && !e.Suspect() && !in.tried(e.Host) {
		return Result{Endpoint: e, Panic: inPanic}, nil
	}
	return s.search(in, p, e, rnd)
}

// choosePriority draws by share, as Envoy does: a value from 1 to 100 falls into the first priority whose cumulated load
// reaches it.
func (s *HostSet) choosePriority(rnd func() uint64) int {
	if s.load[0].Load == 100 {
		return 0
	}
	at := uint32(below(rnd(), 100)) + 1
	var sum uint32
	for i := range s.load {
		if sum += s.load[i].Load; at <= sum {
			return i
		}
	}
	return 0
}
