package validate

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// destinationRule follows istiod's ValidateDestinationRule (SEMANTICS §1.4, §1.5).
func (c *checker) destinationRule(dr *networking.DestinationRule) {
	if err := checkDomain(dr.Host, true); err != nil {
		c.errorf(config.CodeDRHost, "spec.host", "%v", err)
	}
	c.exportTo(dr.ExportTo)
	if tp := dr.TrafficPolicy; tp != nil {
		c.trafficPolicy("spec.trafficPolicy", tp)
	}
	for i, s := range dr.Subsets {
		path := fmt.Sprintf("spec.subsets[%d]", i)
		if !isLabel(s.Name) {
			c.errorf(config.CodeSubset, path+".name", "%q is not a subset's name; allowed: 1 to 63 letters, digits and '-'", s.Name)
		}
		c.labels(path+".labels", s.Labels)
		if s.TrafficPolicy != nil {
			c.trafficPolicy(path+".trafficPolicy", s.TrafficPolicy)
		}
	}
}

func (c *checker) trafficPolicy(path string, tp *networking.TrafficPolicy) {
	if proto.Size(tp) == 0 {
		c.errorf(config.CodeLoadBalancer, path, "is empty; give one of its fields or leave it out")
	}
	c.outlierDetection(path+".outlierDetection", tp.OutlierDetection)
	c.connectionPool(path+".connectionPool", tp.ConnectionPool)
	c.loadBalancer(path+".loadBalancer", tp.LoadBalancer, tp.OutlierDetection)
	c.tls(path+".tls", tp.Tls)
	for i, p := range tp.PortLevelSettings {
		path := fmt.Sprintf("%s.portLevelSettings[%d]", path, i)
		c.port(config.CodePortSettings, path+".port.number", p.GetPort().GetNumber())
		c.outlierDetection(path+".outlierDetection", p.OutlierDetection)
		c.connectionPool(path+".connectionPool", p.ConnectionPool)
		c.loadBalancer(path+".loadBalancer", p.LoadBalancer, p.OutlierDetection)
		c.tls(path+".tls", p.Tls)
	}
}

func (c *checker) outlierDetection(path string, od *networking.OutlierDetection) {
	if od == nil {
		return
	}
	c.duration(config.CodeOutlier, path+".interval", od.Interval)
	c.duration(config.CodeOutlier, path+".baseEjectionTime", od.BaseEjectionTime)
	c.percent(config.CodeOutlier, path+".maxEjectionPercent", od.MaxEjectionPercent)
	c.percent(config.CodeOutlier, path+".minHealthPercent", od.MinHealthPercent)
	//lint:ignore SA1019 whoever still writes the deprecated field is told so
	if od.ConsecutiveErrors != 0 {
		c.warnf(config.CodeOutlier, path+".consecutiveErrors", "is deprecated and without effect; write consecutive5xxErrors or consecutiveGatewayErrors")
	}
	if od.ConsecutiveLocalOriginFailures.GetValue() > 0 && !od.SplitExternalLocalOriginErrors {
		c.errorf(config.CodeOutlier, path+".consecutiveLocalOriginFailures", "needs splitExternalLocalOriginErrors: true beside it")
	}
	for i, code := range od.OutlierDetectionHttpErrorCodes {
		if code < 100 || code > 599 {
			c.errorf(config.CodeOutlier, fmt.Sprintf("%s.outlierDetectionHttpErrorCodes[%d]", path, i), "%d is not an HTTP status; allowed: 100 to 599", code)
		}
	}
}

func (c *checker) connectionPool(path string, cp *networking.ConnectionPoolSettings) {
	if cp == nil {
		return
	}
	if cp.Tcp == nil && cp.Http == nil {
		c.errorf(config.CodeConnectionPool, path, "is empty; give tcp or http or leave it out")
	}
	if tcp := cp.Tcp; tcp != nil {
		p := path + ".tcp"
		c.atLeastZero(config.CodeConnectionPool, p, map[string]int32{"maxConnections": tcp.MaxConnections})
		c.duration(config.CodeConnectionPool, p+".connectTimeout", tcp.ConnectTimeout)
		c.duration(config.CodeConnectionPool, p+".maxConnectionDuration", tcp.MaxConnectionDuration)
		c.durationOrOff(config.CodeConnectionPool, p+".idleTimeout", tcp.IdleTimeout)
		if ka := tcp.TcpKeepalive; ka != nil {
			c.duration(config.CodeConnectionPool, p+".tcpKeepalive.time", ka.Time)
			c.duration(config.CodeConnectionPool, p+".tcpKeepalive.interval", ka.Interval)
		}
	}
	if http := cp.Http; http != nil {
		p := path + ".http"
		c.atLeastZero(config.CodeConnectionPool, p, map[string]int32{
			"http1MaxPendingRequests": http.Http1MaxPendingRequests, "http2MaxRequests": http.Http2MaxRequests,
			"maxRequestsPerConnection": http.MaxRequestsPerConnection, "maxRetries": http.MaxRetries,
			"maxConcurrentStreams": http.MaxConcurrentStreams,
		})
		c.durationOrOff(config.CodeConnectionPool, p+".idleTimeout", http.IdleTimeout)
		if http.UseClientProtocol && http.H2UpgradePolicy == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE {
			c.errorf(config.CodeConnectionPool, p+".useClientProtocol", "excludes h2UpgradePolicy: UPGRADE")
		}
	}
}

func (c *checker) loadBalancer(path string, lb *networking.LoadBalancerSettings, od *networking.OutlierDetection) {
	if lb == nil {
		return
	}
	path += ".localityLbSetting"
	set := lb.LocalityLbSetting
	if set == nil {
		return
	}
	if len(set.Distribute) > 0 && len(set.Failover) > 0 {
		c.errorf(config.CodeLocalityLB, path+".distribute", "excludes failover; give one of them")
	}
	for i, d := range set.Distribute {
		c.distribute(fmt.Sprintf("%s.distribute[%d]", path, i), d)
	}
	for i, f := range set.Failover {
		c.failover(fmt.Sprintf("%s.failover[%d]", path, i), f)
	}
	if len(set.Failover)+len(set.FailoverPriority) > 0 && od == nil {
		c.warnf(config.CodeLocalityLB, path, "failover needs outlierDetection beside it; without it no endpoint is ever found to be bad and all localities serve alike")
	}
	if len(set.Failover) > 0 {
		for i, l := range set.FailoverPriority {
			label, _, _ := strings.Cut(l, "=")
			if slices.Contains([]string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"}, label) {
				c.errorf(config.CodeLocalityLB, fmt.Sprintf("%s.failoverPriority[%d]", path, i), "%q can't be given beside failover", label)
			}
		}
	}
}

func (c *checker) distribute(path string, d *networking.LocalityLoadBalancerSetting_Distribute) {
	total := uint32(0)
	for _, loc := range sortedKeys(d.To) {
		w := d.To[loc]
		if w < 1 || w > 100 {
			c.errorf(config.CodeLocalityLB, path+".to", "the weight %d of %q is out of range; allowed: 1 to 100", w, loc)
		}
		total += min(w, 1000)
	}
	if total != 100 {
		c.errorf(config.CodeLocalityLB, path+".to", "the weights add up to %d; they must be 100 together", total)
	}
}

func (c *checker) failover(path string, f *networking.LocalityLoadBalancerSetting_Failover) {
	for _, end := range [][2]string{{"from", f.From}, {"to", f.To}} {
		name, region := end[0], end[1]
		switch {
		case region == "":
			c.errorf(config.CodeLocalityLB, path+"."+name, "is missing; wants a region")
		case strings.Contains(region, "/"):
			c.errorf(config.CodeLocalityLB, path+"."+name, "%q names a zone; failover takes regions only: %q", region, region[:strings.IndexByte(region, '/')])
		case strings.Contains(region, "*"):
			c.errorf(config.CodeLocalityLB, path+"."+name, "%q: wildcards are not allowed here; name a region", region)
		}
	}
	if f.From == f.To && f.From != "" {
		c.errorf(config.CodeLocalityLB, path+".to", "%q is the same as from; name another region", f.To)
	}
}

func (c *checker) tls(path string, t *networking.ClientTLSSettings) {
	if t == nil {
		return
	}
	files := map[string]string{"clientCertificate": t.ClientCertificate, "privateKey": t.PrivateKey, "caCertificates": t.CaCertificates, "caCrl": t.CaCrl}
	for _, name := range sortedKeys(files) {
		if files[name] != "" && t.CredentialName != "" {
			c.errorf(config.CodeTLS, path+"."+name, "excludes credentialName; give one of them")
		}
	}
	switch {
	case t.Mode == networking.ClientTLSSettings_MUTUAL && t.CredentialName == "":
		for _, name := range []string{"clientCertificate", "privateKey"} {
			if files[name] == "" {
				c.errorf(config.CodeTLS, path+"."+name, "is missing; mode MUTUAL needs clientCertificate and privateKey")
			}
		}
	case t.Mode == networking.ClientTLSSettings_SIMPLE && t.ClientCertificate+t.PrivateKey != "":
		c.warnf(config.CodeTLS, path+".mode", "SIMPLE shows no client certificate: clientCertificate and privateKey are without effect; choose MUTUAL")
	}
	if t.InsecureSkipVerify.GetValue() {
		if t.CaCertificates != "" {
			c.errorf(config.CodeTLS, path+".caCertificates", "is without effect beside insecureSkipVerify: true; remove one of them")
		}
		if len(t.SubjectAltNames) > 0 {
			c.errorf(config.CodeTLS, path+".subjectAltNames", "are without effect beside insecureSkipVerify: true; remove one of them")
		}
	}
}
