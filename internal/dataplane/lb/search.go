package lb

import "slices"

// search is Pick's slow path: the endpoint that the algorithm gave may not be used, or not now. It looks at the hosts as
// they are, not as they were when the set was made. first is what the algorithm gave, or nil.
func (s *HostSet) search(in *PickInfo, p int, first *Endpoint) (Result, error) {
	retry := len(in.Tried) > 0
	inPanic := s.load[p].Panic
	res := Result{Panic: inPanic}
	chosen := s.tiers[p].Endpoints

	if retry {
		// Another address of the same name first: it is as near, and as likely to hold what the request asks for.
		last := in.Tried[len(in.Tried)-1]
		same := func(e *Endpoint) bool { return e.Name == last.Name && e.Name != "" }
		if res.Endpoint = pickWhere(chosen, in, inPanic, false, same); res.Endpoint != nil {
			return res, nil
		}
	}
	if res.Endpoint = pickAmong(chosen, in, inPanic, false); res.Endpoint != nil {
		return res, nil
	}
	suspect := pickAmong(chosen, in, inPanic, true)
	if suspect == nil || retry || s.policy.CrossPriority {
		for i := range s.tiers {
			if i == p {
				continue
			}
			if e := pickAmong(s.tiers[i].Endpoints, in, s.load[i].Panic, false); e != nil {
				return Result{Endpoint: e, Panic: s.load[i].Panic}, nil
			}
		}
	}
	if res.Endpoint = suspect; suspect != nil {
		return res, nil
	}
	for i := range s.tiers {
		if e := pickAmong(s.tiers[i].Endpoints, in, s.load[i].Panic, true); e != nil {
			return Result{Endpoint: e, Panic: s.load[i].Panic}, nil
		}
	}
	switch {
	case !retry && first != nil: // well when the set was made, and so is nobody now, or the flags changed while they were read
		return Result{Endpoint: first, Panic: inPanic}, nil
	case !retry:
		return Result{}, ErrNoHealthyHost
	}
	if e := longestEjected(s.all, in); e != nil {
		return Result{Endpoint: e, LastResort: true}, nil
	}
	return Result{}, ErrAllTried
}

// pickAmong gives one of the untried, usable endpoints at random, each with the same chance (whatever its weight: this is a
// detour that lasts until the next HostSet); inPanic takes the unusable too, suspects only the suspect, or only the others.
func pickAmong(eps []*Endpoint, in *PickInfo, inPanic, suspects bool) *Endpoint {
	return pickWhere(eps, in, inPanic, suspects, nil)
}

// pickWhere is pickAmong for the endpoints that where, if not nil, admits.
func pickWhere(eps []*Endpoint, in *PickInfo, inPanic, suspects bool, where func(*Endpoint) bool) *Endpoint {
	fits := func(e *Endpoint) bool {
		return e.Suspect() == suspects && (inPanic || e.Usable()) && !in.Exhausted(e.Host) && (where == nil || where(e))
	}
	n := 0
	for _, e := range eps {
		if fits(e) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	k := below(in.random(), n)
	var last *Endpoint
	for _, e := range eps {
		if fits(e) {
			if last = e; k == 0 {
				break
			}
			k--
		}
	}
	return last
}

// longestEjected gives the untried endpoint that was ejected first: the likeliest to be well again.
func longestEjected(eps []*Endpoint, in *PickInfo) *Endpoint {
	var best *Endpoint
	for _, e := range eps {
		if !e.Ejected() || in.Exhausted(e.Host) {
			continue
		}
		if best == nil || e.Health.EjectedAt.Load() < best.Health.EjectedAt.Load() {
			best = e
		}
	}
	return best
}

// AnotherWell tells whether an endpoint other than than and those tried before could serve at once: neither ejected nor
// suspect. crossPriority looks beyond the priority of than.
func (s *HostSet) AnotherWell(than *Host, crossPriority bool, tried ...*Host) bool {
	priority := int64(-1)
	if !crossPriority {
		for _, e := range s.all {
			if e.Host == than {
				priority = int64(e.Priority)
				break
			}
		}
	}
	for _, e := range s.all {
		if e.Host != than && (priority < 0 || int64(e.Priority) == priority) && e.Usable() && !e.Suspect() && !slices.Contains(tried, e.Host) {
			return true
		}
	}
	return false
}
