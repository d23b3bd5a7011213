package lb

// Priority arithmetic, as Envoy's LoadBalancerBase has it (docs: "Priority levels", "Panic threshold"). All of it is in
// whole percents, rounded down as Envoy does.

// DefaultOverprovisioning is Envoy's overprovisioning_factor, in percent: a priority with 72 % of its endpoints healthy
// still takes all of its load.
const DefaultOverprovisioning = 140

// TierHealth is what the arithmetic knows of one priority.
type TierHealth struct {
	Hosts, Healthy uint64
}

// TierLoad is what it says of one priority.
type TierLoad struct {
	Health uint32 // percent, with overprovisioning, at most 100
	Load   uint32 // percent of the requests
	Panic  bool   // health is not looked at
}

// Loads distributes 100 % over the priorities. over is the overprovisioning factor in percent, panicPercent
// healthy_panic_threshold (0: no panic).
func Loads(tiers []TierHealth, over uint32, panicPercent float64) []TierLoad {
	out := make([]TierLoad, len(tiers))
	if len(tiers) == 0 {
		return out
	}
	var total uint32
	for i, t := range tiers {
		if t.Hosts > 0 {
			out[i].Health = uint32(min(100, uint64(over)*t.Healthy/t.Hosts))
		}
		total = min(100, total+out[i].Health)
	}
	if total > 0 {
		spread(out, total)
	} else if panicPercent == 0 {
		out[0].Load = 100 // somebody has to be asked; it has nobody healthy, so the answer is no
		return out
	}
	all := true
	for i, t := range tiers {
		healthy := 0.0
		if t.Hosts > 0 {
			healthy = 100 * float64(t.Healthy) / float64(t.Hosts)
		}
		out[i].Panic = total != 100 && healthy < panicPercent
		all = all && out[i].Panic
	}
	if all {
		spreadInPanic(out, tiers)
	}
	return out
}

// spread gives each priority, in order, as much of the load as its health allows.
func spread(out []TierLoad, total uint32) {
	left, first := uint32(100), -1
	for i := range out {
		if out[i].Health == 0 {
			continue
		}
		if first < 0 {
			first = i
		}
		out[i].Load = min(left, out[i].Health*100/total)
		left -= out[i].Load
	}
	out[first].Load += left // what rounding left over
}

// spreadInPanic is for when every priority is in panic: by number of endpoints, healthy or not.
func spreadInPanic(out []TierLoad, tiers []TierHealth) {
	var hosts uint64
	for _, t := range tiers {
		hosts += t.Hosts
	}
	if hosts == 0 {
		out[0].Load = 100
		return
	}
	left, first := uint32(100), -1
	for i, t := range tiers {
		if first < 0 && t.Hosts > 0 {
			first = i
		}
		out[i].Load = uint32(100 * t.Hosts / hosts)
		left -= out[i].Load
	}
	out[first].Load += left
}
