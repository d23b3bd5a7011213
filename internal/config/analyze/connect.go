package analyze

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// expiresSoon is how long before its end a certificate is worth a word.
const expiresSoon = 21 * 24 * time.Hour

// probe is one connection to one endpoint, with its handshake unless plain, and what came of it.
type probe struct {
	plan     *translate.Plan
	endpoint translate.PlannedEndpoint
	plain    bool
	sni      string
	want     []string // the certificate must carry one of these; empty: nothing is verified by name
	chain    []*x509.Certificate
	err      error
}

// connect tries a connection to every endpoint, and shakes hands with those that must speak TLS. On TLS and HTTPS ports the
// application verifies the host it asked for, so only endpoints whose certificate carries that name can take over; where
// detour originates TLS, what the configuration says is verified.
func (r *run) connect(ctx context.Context) {
	var probes []*probe
	tried := map[string]bool{} // plain connections: subsets and ports share endpoints
	for _, p := range r.plans {
		if p.Blocked != "" {
			continue
		}
		for _, e := range p.Endpoints {
			one := newProbe(p, e)
			if key := one.address() + " " + e.At.String(); one.plain && tried[key] {
				continue
			} else if one.plain {
				tried[key] = true
			}
			probes = append(probes, one)
		}
	}
	each(probes, func(p *probe) { r.try(ctx, p) })
	byCluster := map[*translate.Plan][]*probe{}
	var plans []*translate.Plan
	for _, p := range probes {
		if byCluster[p.plan] == nil {
			plans = append(plans, p.plan)
		}
		byCluster[p.plan] = append(byCluster[p.plan], p)
	}
	for _, plan := range plans {
		r.judge(plan, byCluster[plan])
	}
}

// newProbe decides which name is asked for and which the certificate must carry.
func newProbe(p *translate.Plan, e translate.PlannedEndpoint) *probe {
	out := &probe{plan: p, endpoint: e, sni: p.Host, plain: p.TLS == nil && p.Protocol != "tls"}
	switch {
	case p.TLS == nil:
		out.want = []string{p.Host}
	case p.TLS.InsecureSkipVerify.GetValue():
		out.sni = cmp.Or(p.TLS.Sni, p.Host)
	case p.TLS.Sni != "":
		out.sni, out.want = p.TLS.Sni, p.SANs
	default:
		if p.NamesFollowEndpoints && e.IsName {
			out.sni = e.Address
		}
		out.want = []string{out.sni}
		if len(p.SANs) > 0 {
			out.want = p.SANs
		}
	}
	if strings.HasPrefix(out.sni, "*") {
		out.sni, out.want = "", nil // which names applications will ask for is not known
	}
	return out
}

// address is how messages name the endpoint.
func (p *probe) address() string {
	if p.endpoint.Port == 0 {
		return "unix://" + p.endpoint.Address
	}
	return net.JoinHostPort(p.endpoint.Address, strconv.FormatUint(uint64(p.endpoint.Port), 10))
}

// place is the endpoint's line.
func (p *probe) place() translate.Place {
	out := p.endpoint.At
	if out.Field != "spec.hosts" {
		out.Field += ".address"
	}
	return out
}

// try makes the connection, and the handshake where there is one.
func (r *run) try(ctx context.Context, p *probe) {
	if !p.plain {
		p.chain, p.err = r.handshake(ctx, p)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := r.dialEndpoint(ctx, p)
	if err == nil {
		err = c.Close()
	}
	p.err = err
}

// handshake gives the chain an endpoint presents. Nothing is verified yet, so that what is wrong can be told in full.
func (r *run) handshake(ctx context.Context, p *probe) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cfg := &tls.Config{ServerName: p.sni, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // verified below
	if t := p.plan.TLS; t.GetClientCertificate() != "" {
		pair, err := tls.LoadX509KeyPair(t.ClientCertificate, t.PrivateKey)
		if err != nil {
			return nil, fmt.Errorf("the client certificate can't be used: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	raw, err := r.dialEndpoint(ctx, p)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("the TLS handshake fails: %w", err)
	}
	return conn.ConnectionState().PeerCertificates, nil
}

// dialEndpoint connects to the first address of an endpoint that answers.
func (r *run) dialEndpoint(ctx context.Context, p *probe) (net.Conn, error) {
	if p.endpoint.Port == 0 {
		return r.opt.Network.dial(ctx, "unix", p.endpoint.Address)
	}
	if !p.endpoint.IsName {
		return r.opt.Network.dial(ctx, "tcp", p.address())
	}
	addrs, err := r.opt.Network.lookup(ctx, p.endpoint.Address)
	if err != nil {
		return nil, err
	}
	errs := []error{errors.New("the name has no address")}
	for i, a := range addrs {
		c, err := r.opt.Network.dial(ctx, "tcp", net.JoinHostPort(a.String(), strconv.FormatUint(uint64(p.endpoint.Port), 10)))
		if err == nil {
			return c, nil
		}
		if i == 0 {
			errs = nil
		}
		errs = append(errs, err)
	}
	return nil, errs[0]
}

// judge reports on one cluster's endpoints: those that can't be reached, those whose certificate does not fit, and, where
// none fits, that.
func (r *run) judge(plan *translate.Plan, probes []*probe) {
	reached, fit := 0, 0
	for _, p := range probes {
		if p.err != nil {
			r.report(at(config.Warning, CodeNotConnected, p.place(), "%s can't be reached: %v", p.address(), p.err))
			continue
		}
		if p.plain {
			continue
		}
		reached++
		r.report(at(config.Note, CodeCertificate, p.place(), "%s presents a certificate for %s, until %s",
			p.address(), strings.Join(certNames(p.chain[0]), ", "), p.chain[0].NotAfter.UTC().Format(time.DateOnly)))
		if r.judgeOne(plan, p) {
			fit++
		}
	}
	if reached == 0 || fit > 0 {
		return
	}
	r.report(at(config.Error, CodeNobodyCertified, plan.At("tls"), "no endpoint of %s that answers (%d) has a certificate for %s; every connection would fail",
		plan.Host, reached, strings.Join(unique(probes), " or ")))
}

// unique gives all names the probes wanted, each once.
func unique(probes []*probe) []string {
	var out []string
	for _, p := range probes {
		out = append(out, p.want...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// judgeOne reports what is wrong with one endpoint's certificate and tells whether its names fit.
func (r *run) judgeOne(plan *translate.Plan, p *probe) bool {
	leaf := p.chain[0]
	if left := leaf.NotAfter.Sub(r.opt.Network.now()); left < expiresSoon && left > 0 {
		r.report(at(config.Warning, CodeExpires, p.place(), "the certificate of %s ends in %d days, on %s",
			p.address(), int(left.Hours()/24), leaf.NotAfter.UTC().Format(time.DateOnly)))
	}
	r.judgeTrust(plan, p)
	if len(p.want) == 0 || slices.ContainsFunc(p.want, func(n string) bool { return carries(leaf, n) }) {
		return true
	}
	who := "detour verifies"
	if plan.TLS == nil {
		who = "the application verifies"
	}
	r.report(at(config.Warning, CodeWrongNames, p.place(), "%s can't take over for %s: %s %s, and its certificate is for %s only",
		p.address(), plan.Host, who, strings.Join(p.want, " or "), strings.Join(certNames(leaf), ", ")))
	return false
}

// judgeTrust verifies the chain. On TLS and HTTPS ports the application has authorities of its own, so a chain that the
// system does not trust is a note there.
func (r *run) judgeTrust(plan *translate.Plan, p *probe) {
	if plan.TLS.GetInsecureSkipVerify().GetValue() {
		return
	}
	roots, err := authorities(plan)
	if err == nil {
		inter := x509.NewCertPool()
		for _, c := range p.chain[1:] {
			inter.AddCert(c)
		}
		_, err = p.chain[0].Verify(x509.VerifyOptions{Roots: cmp.Or(roots, r.opt.Network.Roots), Intermediates: inter, CurrentTime: r.opt.Network.now()})
	}
	if err == nil {
		return
	}
	severity, whose := config.Warning, "by what caCertificates names"
	if plan.TLS == nil {
		severity, whose = config.Note, "by this system; the application may have authorities of its own"
	} else if roots == nil {
		whose = "by this system; name the authority in caCertificates"
	}
	r.report(at(severity, CodeNotTrusted, p.place(), "the certificate of %s is not trusted %s: %v", p.address(), whose, err))
}

// authorities gives whom a cluster trusts; nil means the system's.
func authorities(plan *translate.Plan) (*x509.CertPool, error) {
	file := plan.TLS.GetCaCertificates()
	if file == "" || file == "system" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return x509.NewCertPool(), err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return pool, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

// carries tells whether a certificate is for a name: a DNS name (wildcards count), an IP address or a URI.
func carries(c *x509.Certificate, name string) bool {
	if strings.Contains(name, "://") {
		return slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == name })
	}
	return c.VerifyHostname(name) == nil
}

// certNames gives all names of a certificate.
func certNames(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	if len(out) == 0 {
		out = append(out, "no name at all")
	}
	return out
}
