package validate

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// workloadEntry follows istiod's ValidateWorkloadEntry. It stands alone: which services select it is not known, so a name
// may be right (resolution DNS) as well as an address or a unix socket (STATIC).
func (c *checker) workloadEntry(w *networking.WorkloadEntry) {
	const path = "spec.address"
	switch {
	case w.Address == "" && w.Network != "":
		c.warnf(config.CodeBadEndpoint, path, "is missing: a network alone is of use in a mesh of several networks only, here nothing goes there")
	case w.Address == "":
		c.errorf(config.CodeBadEndpoint, path, "is missing; wants an IP address, a host name or unix:///path")
		return
	case strings.HasPrefix(w.Address, unixPrefix):
		c.unixAddress(config.CodeBadEndpoint, path, w)
	case isIP(w.Address):
	default:
		if err := checkDomain(w.Address, false); err != nil {
			c.errorf(config.CodeBadEndpoint, path, "%v", err)
		}
	}
	for _, name := range sortedKeys(w.Ports) {
		p := "spec.ports." + name
		if !isLabel(name) {
			c.errorf(config.CodeBadPortName, p, "%q is not a port's name; allowed: 1 to 63 letters, digits and '-'", name)
		}
		c.port(config.CodeBadPort, p, w.Ports[name])
	}
	c.labels("spec.labels", w.Labels)
	c.locality("spec.locality", w.Locality)
}
