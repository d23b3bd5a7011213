package validate

//lint:file-ignore SA1019 people's files still use the deprecated fields

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// destinationRule follows istiod's ValidateDestinationRule (SEMANTICS §1.4, §1.5).
func (c *checker) destinationRule(dr *networking.DestinationRule) {
	if err := checkDomain(dr.Host, true); err != nil {
		c.errorf(config.CodeDRHost, "spec.host", "%v", err)
	}
	c.exportTo(dr.ExportTo)
	if w := dr.WorkloadSelector; w != nil {
		c.selector("spec.workloadSelector", "matchLabels", w.MatchLabels)
		if own := []string{".", c.o.Namespace}; len(dr.ExportTo) > 1 || len(dr.ExportTo) == 1 && !slices.Contains(own, dr.ExportTo[0]) {
			c.errorf(config.CodeExportTo, "spec.exportTo", "excludes workloadSelector, unless it is \".\" alone: a rule for some workloads stays in its namespace")
		}
	}
	if tp := dr.TrafficPolicy; tp != nil {
		c.trafficPolicy("spec.trafficPolicy", tp)
	}
	names := map[string]bool{}
	for i, s := range dr.Subsets {
		path := fmt.Sprintf("spec.subsets[%d]", i)
		if !isLabel(s.Name) {
			c.errorf(config.CodeSubset, path+".name", "%q is not a subset's name; allowed: 1 to 63 letters, digits and '-'", s.Name)
		} else if names[s.Name] {
			c.errorf(config.CodeSubset, path+".name", "the name %q is taken by an earlier subset", s.Name)
		}
		names[s.Name] = true
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
	if tp.Tunnel != nil && tp.ProxyProtocol != nil {
		c.errorf(config.CodeTunnel, path+".tunnel", "excludes proxyProtocol; give one of them")
	}
	c.retryBudget(path+".retryBudget", tp.RetryBudget)
	for i, p := range tp.PortLevelSettings {
		c.portPolicy(fmt.Sprintf("%s.portLevelSettings[%d]", path, i), p)
	}
}

func (c *checker) retryBudget(path string, b *networking.TrafficPolicy_RetryBudget) {
	if v := b.GetPercent(); v != nil && !(v.Value >= 0 && v.Value <= 100) {
		c.errorf(config.CodeConnectionPool, path+".percent", "%v is out of range; allowed: 0 to 100", v.Value)
	}
	if v := b.GetBudgetInterval(); v != nil && v.AsDuration() < time.Millisecond {
		c.warnf(config.CodeConnectionPool, path+".budgetInterval", "%s is too short to count anything; write 1ms or more", v.AsDuration())
	}
}

func (c *checker) portPolicy(path string, p *networking.TrafficPolicy_PortTrafficPolicy) {
	if p.Port == nil {
		c.errorf(config.CodePortSettings, path+".port", "is missing; wants port: {number: 443}")
	} else if n := p.Port.Number; n < 1 || n > 65535 {
		c.warnf(config.CodePortSettings, path+".port.number", "%d is no port, so these settings apply to nothing; allowed: 1 to 65535", n)
	}
	if p.OutlierDetection == nil && p.ConnectionPool == nil && p.LoadBalancer == nil && p.Tls == nil {
		c.errorf(config.CodePortSettings, path, "sets nothing; give loadBalancer, connectionPool, outlierDetection or tls, or leave it out")
	}
	c.outlierDetection(path+".outlierDetection", p.OutlierDetection)
	c.connectionPool(path+".connectionPool", p.ConnectionPool)
	c.loadBalancer(path+".loadBalancer", p.LoadBalancer, p.OutlierDetection)
	c.tls(path+".tls", p.Tls)
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
			c.warnf(config.CodeOutlier, fmt.Sprintf("%s.outlierDetectionHttpErrorCodes[%d]", path, i), "%d is not an HTTP status, so no answer has it; statuses are 100 to 599", code)
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
	c.httpPool(path+".http", cp.Http)
}

func (c *checker) httpPool(path string, http *networking.ConnectionPoolSettings_HTTPSettings) {
	if http == nil {
		return
	}
	c.atLeastZero(config.CodeConnectionPool, path, map[string]int32{
		"http1MaxPendingRequests": http.Http1MaxPendingRequests, "http2MaxRequests": http.Http2MaxRequests,
		"maxRequestsPerConnection": http.MaxRequestsPerConnection, "maxRetries": http.MaxRetries,
		"maxConcurrentStreams": http.MaxConcurrentStreams,
	})
	c.duration(config.CodeConnectionPool, path+".idleTimeout", http.IdleTimeout)
	if http.UseClientProtocol && http.H2UpgradePolicy == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE {
		c.errorf(config.CodeConnectionPool, path+".useClientProtocol", "excludes h2UpgradePolicy: UPGRADE")
	}
	ka := http.Http2KeepAlive
	if ka == nil {
		return
	}
	for _, f := range []struct {
		name string
		d    *durationpb.Duration
	}{{"interval", ka.Interval}, {"timeout", ka.Timeout}} {
		if f.d == nil {
			c.errorf(config.CodeConnectionPool, path+".http2KeepAlive."+f.name, "is missing; http2KeepAlive needs interval and timeout")
		}
		c.duration(config.CodeConnectionPool, path+".http2KeepAlive."+f.name, f.d)
	}
}

func (c *checker) loadBalancer(path string, lb *networking.LoadBalancerSettings, od *networking.OutlierDetection) {
	if lb == nil {
		return
	}
	c.consistentHash(path+".consistentHash", lb.GetConsistentHash())
	c.warmup(path, lb)
	c.localityLB(path+".localityLbSetting", lb.LocalityLbSetting, od)
	c.zoneAwareLB(path+".zoneAwareLbSetting", lb.ZoneAwareLbSetting, od)
	if lb.LocalityLbSetting != nil && lb.ZoneAwareLbSetting != nil {
		c.errorf(config.CodeLocalityLB, path+".zoneAwareLbSetting", "excludes localityLbSetting; give one of them")
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
		if n := k.HttpHeaderName; n == "" || strings.ContainsAny(n, "\r\n\x00") {
			c.errorf(config.CodeLoadBalancer, path+".httpHeaderName", "%q is not a header's name", n)
		} else if !headerName.MatchString(n) && !slices.Contains(pseudoHeaders, n) {
			c.warnf(config.CodeLoadBalancer, path+".httpHeaderName", "%q is not a header's name, so no request has it and all are spread at random", n)
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		if k.HttpQueryParameterName == "" {
			c.errorf(config.CodeLoadBalancer, path+".httpQueryParameterName", "is empty")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		c.cookie(path+".httpCookie", k.HttpCookie)
	}
	c.hashRing(path, h)
}

func (c *checker) cookie(path string, k *networking.LoadBalancerSettings_ConsistentHashLB_HTTPCookie) {
	if k.GetName() == "" {
		c.errorf(config.CodeLoadBalancer, path+".name", "is missing")
	}
	if ttl := k.GetTtl(); ttl != nil && ttl.AsDuration() < 0 {
		c.errorf(config.CodeLoadBalancer, path+".ttl", "%s is negative; allowed: 0s (a session's) or more", ttl.AsDuration())
	}
	names := map[string]bool{}
	for i, a := range k.GetAttributes() {
		p := fmt.Sprintf("%s.attributes[%d].name", path, i)
		if a.Name == "" {
			c.errorf(config.CodeLoadBalancer, p, "is missing")
		} else if names[a.Name] {
			c.errorf(config.CodeLoadBalancer, p, "%q stands there twice", a.Name)
		}
		names[a.Name] = true
	}
}

// hashRing checks the size of a ring or table.
func (c *checker) hashRing(path string, h *networking.LoadBalancerSettings_ConsistentHashLB) {
	size, at := h.MinimumRingSize, ".minimumRingSize"
	if size != 0 {
		c.warnf(config.CodeLoadBalancer, path+at, "is deprecated; write ringHash: {minimumRingSize: %d}", size)
		if h.HashAlgorithm != nil {
			c.errorf(config.CodeLoadBalancer, path+at, "excludes ringHash and maglev; remove it")
		}
	}
	if a := h.GetRingHash(); a != nil {
		size, at = a.MinimumRingSize, ".ringHash.minimumRingSize"
	}
	if size > maxRing {
		c.errorf(config.CodeLoadBalancer, path+at, "a ring of %d entries is too large; allowed: %d", size, maxRing)
	}
	m := h.GetMaglev()
	switch {
	case m == nil:
	case m.TableSize == 0:
		c.errorf(config.CodeLoadBalancer, path+".maglev.tableSize", "is missing; wants a prime number below %d, as in 65537", maxMaglev)
	case m.TableSize >= maxMaglev || !isPrime(m.TableSize):
		c.errorf(config.CodeLoadBalancer, path+".maglev.tableSize", "%d is not allowed; wants a prime number below %d", m.TableSize, maxMaglev)
	}
}

// maxName is the length of the longest name that DNS and a ClientHello can hold.
const maxName = 255

// Envoy's limits (RingHashLbConfig.minimum_ring_size, MaglevLbConfig.table_size).
const (
	maxRing   = 8 << 20
	maxMaglev = 5_000_011
)

// isPrime takes 1 for a prime, as Envoy does (Primes::isPrime).
func isPrime(n uint64) bool {
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 0
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
		switch v := w.Aggression; {
		case v == nil:
		case !(v.Value > 0):
			c.errorf(config.CodeLoadBalancer, path+".warmup.aggression", "%v is too small; allowed: above 0, 1 for a straight line", v.Value)
		case v.Value < 1:
			c.warnf(config.CodeLoadBalancer, path+".warmup.aggression", "%v is below 1, which Istio's CRD refuses; write 1 or more", v.Value)
		}
	}
	if v := lb.WarmupDurationSecs; v != nil && v.AsDuration() < 0 {
		c.errorf(config.CodeLoadBalancer, path+".warmupDurationSecs", "%s is negative", v.AsDuration())
	}
	if lb.Warmup == nil && lb.WarmupDurationSecs == nil {
		return
	}
	simple := lb.GetSimple()
	if lb.GetConsistentHash() != nil || simple == networking.LoadBalancerSettings_RANDOM || simple == networking.LoadBalancerSettings_PASSTHROUGH {
		c.warnf(config.CodeLoadBalancer, path, "warmup is without effect here: it works with ROUND_ROBIN and LEAST_REQUEST only")
	}
}

func (c *checker) tls(path string, t *networking.ClientTLSSettings) {
	if t == nil {
		return
	}
	secret := t.CredentialName != ""
	files := map[string]string{"clientCertificate": t.ClientCertificate, "privateKey": t.PrivateKey, "caCertificates": t.CaCertificates, "caCrl": t.CaCrl}
	if name, ok := strings.CutPrefix(t.CredentialName, "configmap://"); ok {
		if ns, _, _ := strings.Cut(name, "/"); !strings.Contains(name, "/") || ns != c.o.Namespace {
			c.errorf(config.CodeTLS, path+".credentialName", "%q is not of this object's namespace; wants configmap://%s/NAME", t.CredentialName, c.o.Namespace)
		}
	}
	switch t.Mode {
	case networking.ClientTLSSettings_SIMPLE, networking.ClientTLSSettings_MUTUAL:
	default:
		for _, name := range sortedKeys(files) {
			if files[name] != "" {
				c.warnf(config.CodeTLS, path+"."+name, "is without effect with mode %s", t.Mode)
			}
		}
		return
	}
	if n := len(t.Sni); n > maxName {
		c.errorf(config.CodeTLS, path+".sni", "has %d characters; allowed: %d", n, maxName)
	}
	c.unverified(path, t)
	for _, name := range sortedKeys(files) {
		if files[name] != "" && secret {
			c.errorf(config.CodeTLS, path+"."+name, "excludes credentialName; give one of them")
		}
	}
	switch {
	case t.Mode == networking.ClientTLSSettings_MUTUAL && !secret:
		for _, name := range []string{"clientCertificate", "privateKey"} {
			if files[name] == "" {
				c.errorf(config.CodeTLS, path+"."+name, "is missing; mode MUTUAL needs clientCertificate and privateKey")
			}
		}
	case t.Mode == networking.ClientTLSSettings_SIMPLE && t.ClientCertificate+t.PrivateKey != "" && !secret:
		c.warnf(config.CodeTLS, path+".mode", "SIMPLE shows no client certificate: clientCertificate and privateKey are without effect; choose MUTUAL")
	}
}

// unverified: insecureSkipVerify leaves nothing that could be verified against.
func (c *checker) unverified(path string, t *networking.ClientTLSSettings) {
	if !t.InsecureSkipVerify.GetValue() {
		return
	}
	if t.CaCertificates != "" {
		c.errorf(config.CodeTLS, path+".caCertificates", "is without effect beside insecureSkipVerify: true; remove one of them")
	}
	if len(t.SubjectAltNames) > 0 {
		c.errorf(config.CodeTLS, path+".subjectAltNames", "are without effect beside insecureSkipVerify: true; remove one of them")
	}
	if t.CredentialName != "" && t.Mode == networking.ClientTLSSettings_SIMPLE {
		c.errorf(config.CodeTLS, path+".credentialName", "is without effect beside insecureSkipVerify: true; remove one of them")
	}
}
