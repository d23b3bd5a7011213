package cluster

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"detour.dev/detour/internal/dataplane/lb"
)

// maxPriority is EDS's bound: priorities are 0 to 128.
const maxPriority = 128

// assignment is what a ClusterLoadAssignment says.
type assignment struct {
	targets          []target
	proto            *endpointv3.ClusterLoadAssignment
	overprovisioning uint32
	weightedHealth   bool
}

func (a *assignment) policy(cfg *Config) *lb.Policy {
	p := cfg.policy
	p.Overprovisioning, p.WeightedPriorityHealth = a.overprovisioning, a.weightedHealth
	return &p
}

// compileAssignment reads a load assignment. A cluster without one has no endpoints.
func compileAssignment(cfg *Config, a *endpointv3.ClusterLoadAssignment) (*assignment, error) {
	if cfg.Type.providesBalancing() && len(a.GetEndpoints()) > 0 {
		return nil, errors.New("load_assignment: not allowed with ORIGINAL_DST or a dynamic forward proxy")
	}
	if len(a.GetPolicy().GetDropOverloads()) > 0 {
		return nil, errors.New("policy.drop_overloads: not supported")
	}
	out := &assignment{
		proto:            a,
		overprovisioning: value(a.GetPolicy().GetOverprovisioningFactor(), lb.DefaultOverprovisioning),
		weightedHealth:   a.GetPolicy().GetWeightedPriorityHealth(),
	}
	for i, group := range a.GetEndpoints() {
		if group.GetPriority() > maxPriority {
			return nil, fmt.Errorf("endpoints[%d].priority: %d is above %d", i, group.GetPriority(), maxPriority)
		}
		if group.GetLedsClusterLocalityConfig() != nil {
			return nil, fmt.Errorf("endpoints[%d].leds_cluster_locality_config: not supported", i)
		}
		for j, e := range group.GetLbEndpoints() {
			t, err := compileTarget(cfg, e)
			if err != nil {
				return nil, fmt.Errorf("endpoints[%d].lb_endpoints[%d]: %w", i, j, err)
			}
			t.locality, t.priority = group.GetLocality(), group.GetPriority()
			t.localityWeight = group.GetLoadBalancingWeight().GetValue()
			out.targets = append(out.targets, t)
		}
	}
	if cfg.Type == LogicalDNS && (len(out.targets) != 1 || out.targets[0].path != "") {
		return nil, fmt.Errorf("load_assignment: LOGICAL_DNS has one endpoint with an address, not %d", len(out.targets))
	}
	return out, nil
}

func compileTarget(cfg *Config, e *endpointv3.LbEndpoint) (t target, err error) {
	t = target{
		hostname: e.GetEndpoint().GetHostname(),
		weight:   max(1, value(e.GetLoadBalancingWeight(), 1)),
		status:   e.GetHealthStatus(),
		metadata: e.GetMetadata(),
		logical:  cfg.Type == LogicalDNS,
	}
	switch addr := e.GetEndpoint().GetAddress().GetAddress().(type) {
	case *corev3.Address_Pipe:
		t.path, t.key = addr.Pipe.GetPath(), addr.Pipe.GetPath()
		if t.path == "" {
			return t, errors.New("pipe: path is empty")
		}
	case *corev3.Address_SocketAddress:
		err = t.socket(cfg, addr.SocketAddress)
	default:
		err = errors.New("address: neither socket_address nor pipe")
	}
	return t, err
}

func (t *target) socket(cfg *Config, s *corev3.SocketAddress) error {
	if s.GetPortValue() == 0 || s.GetPortValue() > math.MaxUint16 {
		return fmt.Errorf("socket_address: %d is not a port", s.GetPortValue())
	}
	t.port = uint16(s.GetPortValue())
	t.key = net.JoinHostPort(s.GetAddress(), strconv.Itoa(int(t.port)))
	ip, err := netip.ParseAddr(s.GetAddress())
	switch {
	case err == nil:
		t.addr = ip.Unmap()
	case cfg.Type.byName() && s.GetAddress() != "":
		t.name = strings.TrimSuffix(s.GetAddress(), ".")
		if t.hostname == "" {
			t.hostname = s.GetAddress()
		}
	default:
		return fmt.Errorf("socket_address: %q is not an IP address", s.GetAddress())
	}
	if cfg.Type.byName() && t.hostname == "" {
		t.hostname = s.GetAddress()
	}
	return nil
}
