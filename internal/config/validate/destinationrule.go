package validate

//lint:file-ignore SA1019 people's files still use the deprecated fields

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
	c.tunnel(path+".tunnel", tp.Tunnel)
	if b := tp.RetryBudget; b != nil {
		if v := b.Percent; v != nil && !(v.Value >= 0 && v.Value <= 100) {
			c.errorf(config.CodeConnectionPool, path+".retryBudget.percent", "%v is out of range; allowed: 0 to 100", v.Value)
		}
		c.duration(config.CodeConnectionPool, path+".retryBudget.budgetInterval", b.BudgetInterval)
	}
	for i, p := range tp.PortLevelSettings {
		path := fmt.Sprintf("%s.portLevelSettings[%d]", path, i)
		c.port(config.CodePortSettings, path+".port.number", p.GetPort().GetNumber())
		c.outlierDetection(path+".outlierDetection", p.OutlierDetection)
		c.connectionPool(path+".connectionPool", p.ConnectionPool)
		c.loadBalancer(path+".loadBalancer", p.LoadBalancer, p.OutlierDetection)
		c.tls(path+".tls", p.Tls)
	}
}

func (c *checker) tunnel(path string, t *networking.TrafficPolicy_TunnelSettings) {
	if t == nil {
		return
	}
	if t.Protocol != "" && t.Protocol != "CONNECT" && t.Protocol != "POST" {
		c.errorf(config.CodeTunnel, path+".protocol", "%q is unknown; allowed: CONNECT, POST", t.Protocol)
	}
	if err := checkDomain(t.TargetHost, false); err != nil && !isIP(t.TargetHost) {
		c.errorf(config.CodeTunnel, path+".targetHost", "%v", err)
	}
	c.port(config.CodeTunnel, path+".targetPort", t.TargetPort)
}

func (c *checker) outlierDetection(path string, od *networking.OutlierDetection) {
	if od == nil {
		return
	}
	c.duration(config.CodeOutlier, path+".interval", od.Interval)
	c.duration(config.CodeOutlier, path+".baseEjectionTime", od.BaseEjectionTime)
	c.percent(config.CodeOutlier, path+".maxEjectionPercent", od.MaxEjectionPercent)
	c.percent(config.CodeOutlier, path+".minHealthPercent", od.MinHealthPercent)
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
	c.consistentHash(path+".consistentHash", lb.GetConsistentHash())
	c.warmup(path, lb)
	c.localityLB(path+".localityLbSetting", lb.LocalityLbSetting, od)
}

func (c *checker) localityLB(path string, set *networking.LocalityLoadBalancerSetting, od *networking.OutlierDetection) {
	if set == nil {
		return
	}
	if len(set.Distribute) > 0 && len(set.Failover) > 0 {
		c.errorf(config.CodeLocalityLB, path+".distribute", "excludes failover; give one of them")
	}
	for i, d := range set.Distribute {
		c.distribute(fmt.Sprintf("%s.distribute[%d]", path, i), d)
		if k := slices.IndexFunc(set.Distribute[:i], func(o *networking.LocalityLoadBalancerSetting_Distribute) bool { return o.From == d.From }); k >= 0 {
			c.errorf(config.CodeLocalityLB, fmt.Sprintf("%s.distribute[%d].from", path, i), "%q stands in distribute[%d] already, which is the one that counts", d.From, k)
		}
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

// consistentHash: without a key every request gets a random endpoint, which is not what its author means.
func (c *checker) consistentHash(path string, h *networking.LoadBalancerSettings_ConsistentHashLB) {
	if h == nil {
		return
	}
	switch k := h.HashKey.(type) {
	case nil:
		c.warnf(config.CodeLoadBalancer, path, "has no key, so requests are spread at random; give httpHeaderName, httpCookie, httpQueryParameterName or useSourceIp: true")
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		if !k.UseSourceIp {
			c.warnf(config.CodeLoadBalancer, path+".useSourceIp", "false gives no key, so requests are spread at random; write true, or give another key")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		if !headerName.MatchString(k.HttpHeaderName) {
			c.errorf(config.CodeLoadBalancer, path+".httpHeaderName", "%q is not a header's name", k.HttpHeaderName)
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		if k.HttpQueryParameterName == "" {
			c.errorf(config.CodeLoadBalancer, path+".httpQueryParameterName", "is empty")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		if k.HttpCookie.GetName() == "" {
			c.errorf(config.CodeLoadBalancer, path+".httpCookie.name", "is missing")
		}
		if ttl := k.HttpCookie.GetTtl(); ttl != nil && ttl.AsDuration() < 0 {
			c.errorf(config.CodeLoadBalancer, path+".httpCookie.ttl", "%s is negative; allowed: 0s (a session's) or more", ttl.AsDuration())
		}
	}
	size := h.GetMinimumRingSize()
	if a := h.GetRingHash(); a != nil {
		size = a.MinimumRingSize
	}
	if size > maxRing {
		c.errorf(config.CodeLoadBalancer, path, "a ring of %d entries is too large; allowed: %d", size, maxRing)
	}
	if m := h.GetMaglev(); m != nil && m.TableSize != 0 && (m.TableSize > maxMaglev || !isPrime(m.TableSize)) {
		c.errorf(config.CodeLoadBalancer, path+".maglev.tableSize", "%d is not allowed; wants a prime number up to %d", m.TableSize, maxMaglev)
	}
}

// Envoy's limits (RingHashLbConfig.minimum_ring_size, MaglevLbConfig.table_size).
const (
	maxRing   = 8 << 20
	maxMaglev = 5_000_011
)

func isPrime(n uint64) bool {
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

func (c *checker) warmup(path string, lb *networking.LoadBalancerSettings) {
	if w := lb.Warmup; w != nil {
		if w.Duration == nil {
			c.errorf(config.CodeLoadBalancer, path+".warmup.duration", "is missing")
		}
		c.duration(config.CodeLoadBalancer, path+".warmup.duration", w.Duration)
		if v := w.MinimumPercent; v != nil && !(v.Value >= 0 && v.Value <= 100) {
			c.errorf(config.CodeLoadBalancer, path+".warmup.minimumPercent", "%v is out of range; allowed: 0 to 100", v.Value)
		}
		if v := w.Aggression; v != nil && !(v.Value >= 1) {
			c.errorf(config.CodeLoadBalancer, path+".warmup.aggression", "%v is too small; allowed: 1 or more", v.Value)
		}
	}
	c.duration(config.CodeLoadBalancer, path+".warmupDurationSecs", lb.WarmupDurationSecs)
	if lb.Warmup == nil && lb.WarmupDurationSecs == nil {
		return
	}
	simple := lb.GetSimple()
	if lb.GetConsistentHash() != nil || simple == networking.LoadBalancerSettings_RANDOM || simple == networking.LoadBalancerSettings_PASSTHROUGH {
		c.warnf(config.CodeLoadBalancer, path, "warmup is without effect here: it works with ROUND_ROBIN and LEAST_REQUEST only")
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
