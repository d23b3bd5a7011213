package validate

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// topologyLabels are those that failover by region stands for.
var topologyLabels = []string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"}

// localityLB follows istiod's ValidateLocalityLbSetting; od is the outlierDetection beside it.
func (c *checker) localityLB(path string, set *networking.LocalityLoadBalancerSetting, od *networking.OutlierDetection) {
	if set == nil {
		return
	}
	if len(set.Distribute) > 0 && len(set.Failover) > 0 {
		c.errorf(config.CodeLocalityLB, path+".distribute", "excludes failover; give one of them")
	}
	from := localities{c: c}
	for i, d := range set.Distribute {
		p := fmt.Sprintf("%s.distribute[%d]", path, i)
		c.distribute(p, d)
		from.add(p+".from", d.From)
	}
	for i, f := range set.Failover {
		c.failover(fmt.Sprintf("%s.failover[%d]", path, i), f.From, f.To)
	}
	c.needsOutlier(path, len(set.Failover)+len(set.FailoverPriority), od)
	for i, l := range set.FailoverPriority {
		if len(set.Failover) > 0 && slices.Contains(topologyLabels, l) {
			c.errorf(config.CodeLocalityLB, fmt.Sprintf("%s.failoverPriority[%d]", path, i), "%q can't be given beside failover", l)
		}
	}
}

// zoneAwareLB follows istiod's ValidateZoneAwareLbSetting.
func (c *checker) zoneAwareLB(path string, set *networking.ZoneAwareLoadBalancerSetting, od *networking.OutlierDetection) {
	if set == nil {
		return
	}
	for i, f := range set.Failover {
		c.failover(fmt.Sprintf("%s.failover[%d]", path, i), f.From, f.To)
	}
	c.needsOutlier(path, len(set.Failover)+len(set.FailoverPriority), od)
	for i, l := range set.FailoverPriority {
		if slices.Contains(topologyLabels, l) {
			c.errorf(config.CodeLocalityLB, fmt.Sprintf("%s.failoverPriority[%d]", path, i), "%q is what zoneAwareLbSetting looks at by itself; remove it", l)
		}
	}
}

func (c *checker) needsOutlier(path string, orders int, od *networking.OutlierDetection) {
	if orders > 0 && od == nil {
		c.warnf(config.CodeLocalityLB, path, "failover needs outlierDetection beside it; without it no endpoint is ever found to be bad and all localities serve alike")
	}
}

func (c *checker) distribute(path string, d *networking.LocalityLoadBalancerSetting_Distribute) {
	total := uint32(0)
	to := localities{c: c}
	for _, loc := range sortedKeys(d.To) {
		w := d.To[loc]
		if w < 1 || w > 100 {
			c.errorf(config.CodeLocalityLB, path+".to", "the weight %d of %q is out of range; allowed: 1 to 100", w, loc)
		}
		total += min(w, 1000)
		to.add(path+".to", loc)
	}
	if total != 100 {
		c.errorf(config.CodeLocalityLB, path+".to", "the weights add up to %d; they must be 100 together", total)
	}
}

// localities are patterns of which each locality may fit one only; of several "from" the first that fits counts, so that a
// later one may be wider (istiod's validateLocalities).
type localities struct {
	c    *checker
	seen []string
}

func (l *localities) add(path, pattern string) {
	if n := strings.Count(pattern, "*"); n > 1 || n == 1 && !strings.HasSuffix(pattern, "*") {
		l.c.errorf(config.CodeLocalityLB, path, "%q: one wildcard is allowed, and only as the end, as in \"us-east1/*\"", pattern)
		return
	}
	if slices.Contains(strings.SplitN(pattern, "/", 3), "") {
		l.c.errorf(config.CodeLocalityLB, path, "%q is not a locality; wants region, region/zone or region/zone/subzone, none of them empty", pattern)
		return
	}
	if k := slices.IndexFunc(l.seen, func(was string) bool { return overlaps(was, pattern) }); k >= 0 {
		l.c.errorf(config.CodeLocalityLB, path, "%q overlaps with %q, which stands before it", pattern, l.seen[k])
	}
	l.seen = append(l.seen, pattern)
}

func overlaps(earlier, later string) bool {
	e, l := strings.SplitN(earlier, "/", 3), strings.SplitN(later, "/", 3)
	switch {
	case earlier == "*":
		return true
	case e[0] != l[0]:
		return false
	case len(e) == 1 || len(l) == 1 || e[1] == "*":
		return true
	case e[1] != l[1]:
		return false
	}
	return len(e) == 2 || len(l) == 2 || e[2] == "*" || e[2] == l[2]
}

func (c *checker) failover(path, from, to string) {
	for _, end := range [][2]string{{"from", from}, {"to", to}} {
		name, region := end[0], end[1]
		switch {
		case region == "" && from != to:
			c.warnf(config.CodeLocalityLB, path+"."+name, "is missing, so this orders nothing; write a region")
		case strings.Contains(region, "/"):
			c.errorf(config.CodeLocalityLB, path+"."+name, "%q names a zone; failover takes regions only: %q", region, region[:strings.IndexByte(region, '/')])
		case strings.Contains(region, "*"):
			c.errorf(config.CodeLocalityLB, path+"."+name, "%q: wildcards are not allowed here; name a region", region)
		}
	}
	switch {
	case from == to && from == "":
		c.errorf(config.CodeLocalityLB, path, "is empty; give from and to, two regions")
	case from == to:
		c.errorf(config.CodeLocalityLB, path+".to", "%q is the same as from; name another region", to)
	}
}
