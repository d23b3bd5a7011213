package translate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	networking "istio.io/api/networking/v1alpha3"
)

// six are one endpoint in each of the places that conformance case 07 has.
var six = []string{"us-east1/us-east1-b/rack1", "us-east1/us-east1-b/rack2", "us-east1/us-east1-c/rack9", "us-central/us-central-a", "eu-west/eu-west-a", ""}

func membersAt(localities ...string) []member {
	var out []member
	for i, l := range localities {
		out = append(out, member{address: fmt.Sprint("e", i), locality: parseLocality(l), weight: 1})
	}
	return out
}

// show writes groups as "locality=priority*weight" in order of priority; a group without endpoints ends in "!".
func show(groups []localityGroup) string {
	var out []string
	for _, g := range groups {
		empty := ""
		if len(g.members) == 0 {
			empty = "!"
		}
		out = append(out, fmt.Sprintf("%d %s*%d%s", g.priority, g.locality, g.weight, empty))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestPlaceByRegion(t *testing.T) {
	failover := func(pairs ...string) placement {
		var p placement
		for _, s := range pairs {
			from, to, _ := strings.Cut(s, ">")
			p.failover = append(p.failover, failoverRule{from, to})
		}
		return p
	}
	zoneAware := failover("us-east1>eu-west")
	zoneAware.zoneAware = true
	for name, tc := range map[string]struct {
		caller  string
		at      []string
		p       placement
		outlier bool
		want    string
	}{
		"every level, and everything else together": {"us-east1/us-east1-b/rack1", six, placement{}, true,
			"0 us-east1/us-east1-b/rack1*1, 1 us-east1/us-east1-b/rack2*1, 2 us-east1/us-east1-c/rack9*1, 3 *1, 3 eu-west/eu-west-a*1, 3 us-central/us-central-a*1"},
		"no outlierDetection, no priorities": {"us-east1", []string{"us-east1", "us-west"}, placement{}, false, "0 us-east1*1, 0 us-west*1"},
		"switched off":                       {"us-east1", []string{"us-east1", "us-west"}, placement{off: true}, true, "0 us-east1*1, 0 us-west*1"},
		"caller nowhere":                     {"", []string{"us-east1", "us-west", ""}, placement{}, true, "0 *1, 1 us-east1*1, 1 us-west*1"},
		"caller elsewhere":                   {"asia", []string{"us-east1", "us-west"}, placement{}, true, "0 us-east1*1, 0 us-west*1"},
		"the walkthrough":                    {"us-east1/us-east1-b", []string{"us-east1", "us-west"}, placement{}, true, "0 us-east1*1, 1 us-west*1"},
		"failover puts one region before the others": {"us-east1/b", []string{"us-east1", "eu-west", "us-central"}, failover("us-east1>eu-west"), true,
			"0 us-east1*1, 1 eu-west*1, 2 us-central*1"},
		"failover for another region changes nothing": {"us-west", []string{"us-east1", "us-west"}, failover("us-east1>eu-west"), true,
			"0 us-west*1, 1 us-east1*1"},
		"the first rule for a region counts":      {"a", []string{"a", "b", "c"}, failover("a>b", "a>c"), true, "0 a*1, 1 b*1, 2 c*1"},
		"no gap where the near region is missing": {"a", []string{"b", "c"}, failover("a>c"), true, "0 c*1, 1 b*1"},
		"zone-aware knows three levels and needs no outlierDetection": {"us-east1/us-east1-b/rack1", six, zoneAware, false,
			"0 us-east1/us-east1-b/rack1*1, 0 us-east1/us-east1-b/rack2*1, 0 us-east1/us-east1-c/rack9*1, 1 eu-west/eu-west-a*1, 2 *1, 2 us-central/us-central-a*1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &compiler{node: node{locality: parseLocality(tc.caller)}}
			if got := show(c.place(membersAt(tc.at...), tc.p, tc.outlier)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestPlaceByLabels(t *testing.T) {
	gold := map[string]string{"tier": "gold", "cell": "a", labelNetwork: "n1", labelRegion: "east"}
	m := func(loc string, kv ...string) member {
		out := member{locality: parseLocality(loc), weight: 1, labels: map[string]string{}}
		for _, s := range kv {
			k, v, _ := strings.Cut(s, "=")
			out.labels[k] = v
		}
		return out
	}
	members := []member{
		m("east", "tier=gold", "cell=a"), m("east", "tier=silver", "cell=a"), m("east", "tier=gold", "cell=b"), m("west", "tier=gold", "cell=a", labelNetwork+"=n1"),
	}
	for name, tc := range map[string]struct {
		labels   map[string]string
		keys     []string
		failover []failoverRule
		want     string
	}{
		"label by label":           {gold, []string{"tier", "cell"}, nil, "0 east*1, 0 west*1, 1 east*1, 2 east*1"},
		"a stated value":           {gold, []string{"tier=silver"}, nil, "0 east*1, 1 east*2, 1 west*1"},
		"topology from locality":   {gold, []string{labelRegion}, nil, "0 east*3, 1 west*1"},
		"caller without labels":    {nil, []string{"tier"}, nil, "0 east*3, 0 west*1"},
		"network only adds":        {gold, []string{labelNetwork, "tier"}, nil, "0 west*1, 1 east*2, 2 east*1"},
		"regions on top of labels": {gold, []string{"tier"}, []failoverRule{{"east", "north"}}, "0 east*2, 1 west*1, 2 east*1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &compiler{node: node{labels: tc.labels}}
			if tc.labels[labelRegion] != "" {
				c.node.locality.region = tc.labels[labelRegion]
			}
			if got := show(c.place(members, placement{failoverPriority: tc.keys, failover: tc.failover}, true)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestDistribute(t *testing.T) {
	rule := func(from string, to map[string]uint32) *networking.LocalityLoadBalancerSetting_Distribute {
		return &networking.LocalityLoadBalancerSetting_Distribute{From: from, To: to}
	}
	for name, tc := range map[string]struct {
		caller string
		rules  []*networking.LocalityLoadBalancerSetting_Distribute
		want   string
	}{
		"shared evenly inside a pattern": {"us-east1/us-east1-b/rack1",
			[]*networking.LocalityLoadBalancerSetting_Distribute{rule("us-east1/us-east1-b/*", map[string]uint32{"us-east1/us-east1-b/*": 70, "us-east1/us-east1-c/*": 20, "us-central/*": 10})},
			"0 *1!, 0 eu-west/eu-west-a*1!, 0 us-central/us-central-a*10, 0 us-east1/us-east1-b/rack1*35, 0 us-east1/us-east1-b/rack2*35, 0 us-east1/us-east1-c/rack9*20"},
		"rounded up": {"us-east1", []*networking.LocalityLoadBalancerSetting_Distribute{rule("us-east1", map[string]uint32{"us-east1/*": 80, "eu-west": 20})},
			"0 *1!, 0 eu-west/eu-west-a*20, 0 us-central/us-central-a*1!, 0 us-east1/us-east1-b/rack1*27, 0 us-east1/us-east1-b/rack2*27, 0 us-east1/us-east1-c/rack9*27"},
		"the first rule that matches": {"b", []*networking.LocalityLoadBalancerSetting_Distribute{rule("a", map[string]uint32{"*": 100}), rule("*", map[string]uint32{"eu-west": 100})},
			"0 *1!, 0 eu-west/eu-west-a*100, 0 us-central/us-central-a*1!, 0 us-east1/us-east1-b/rack1*1!, 0 us-east1/us-east1-b/rack2*1!, 0 us-east1/us-east1-c/rack9*1!"},
		"none matches": {"b", []*networking.LocalityLoadBalancerSetting_Distribute{rule("a", map[string]uint32{"*": 100})},
			"0 *1, 0 eu-west/eu-west-a*1, 0 us-central/us-central-a*1, 0 us-east1/us-east1-b/rack1*1, 0 us-east1/us-east1-b/rack2*1, 0 us-east1/us-east1-c/rack9*1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &compiler{node: node{locality: parseLocality(tc.caller)}}
			if got := show(c.place(membersAt(six...), placement{distribute: tc.rules}, false)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestParseLocality(t *testing.T) {
	for in, want := range map[string]locality{
		"":           {},
		"us-east1":   {region: "us-east1"},
		"r/z":        {"r", "z", ""},
		"r/z/s":      {"r", "z", "s"},
		"r/z/s/more": {"r", "z", "s"},
		"us.east":    {region: "us.east"},
	} {
		if got := parseLocality(in); got != want {
			t.Errorf("%q: got %+v, want %+v", in, got, want)
		}
	}
	labelled := &networking.WorkloadEntry{Labels: map[string]string{labelLocalityShort: "r.z.s"}}
	if got := endpointLocality(labelled); got != (locality{"r", "z", "s"}) {
		t.Errorf("label: %+v", got)
	}
	labelled.Locality = "x"
	if got := endpointLocality(labelled); got != (locality{region: "x"}) {
		t.Errorf("the field counts before the label: %+v", got)
	}
}

func TestHostMatches(t *testing.T) {
	for _, tc := range []struct {
		pattern, host string
		want          bool
	}{
		{"a.com", "a.com", true}, {"a.com", "b.com", false}, {"*.com", "a.com", true}, {"*.com", "*.a.com", true},
		{"*.a.com", "*.com", false}, {"*", "a.com", true}, {"*.a.com", "a.com", false}, {"a.com", "*.com", false},
	} {
		if got := hostMatches(tc.pattern, tc.host); got != tc.want {
			t.Errorf("%s covers %s: %v", tc.pattern, tc.host, got)
		}
	}
}
