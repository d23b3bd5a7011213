package tlstransport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// Options are what a Context takes from its surroundings.
type Options struct {
	// Log hears of certificate files that can't be used or were read again. nil: nothing is logged.
	Log *slog.Logger
	// Roots replaces the system's trust store. nil: the system's, loaded by crypto/x509.
	Roots *x509.CertPool
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// Context is an UpstreamTlsContext compiled. It is safe for use by any number of goroutines; its files are looked at
// again, by handshakes, at most once a second.
type Context struct {
	sni         string
	autoHostSNI bool
	autoSAN     bool // auto_sni_san_validation
	insecure    bool
	leafCRL     bool
	sans        []sanMatcher
	params      tlsParams
	alpn        []string
	files       *store
	now         func() time.Time
}

// New compiles an UpstreamTlsContext. It fails on what can't be honoured: a field that would make the check stricter
// is never ignored. It reads no files, so that a loop may call it; the first handshake, or Problems, does. While a
// file is missing or broken, and was never good, handshakes fail with KindConfig and nothing is sent.
func New(ctx *tlsv3.UpstreamTlsContext, opts Options) (*Context, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	resume := ctx.GetMaxSessionKeys() == nil || ctx.GetMaxSessionKeys().GetValue() > 0
	c := &Context{
		sni: ctx.GetSni(), autoHostSNI: ctx.GetAutoHostSni(), autoSAN: ctx.GetAutoSniSanValidation(),
		alpn: ctx.GetCommonTlsContext().GetAlpnProtocols(), now: opts.Now,
		files: &store{log: opts.Log, resume: resume, sysRoots: opts.Roots},
	}
	if ctx.GetAllowRenegotiation() {
		return nil, errors.New("allow_renegotiation is not supported")
	}
	if err := c.compile(ctx.GetCommonTlsContext()); err != nil {
		return nil, err
	}
	return c, nil
}

// Insecure says that peers are not verified at all, because the configuration has no validation context, an empty
// one, or accepts untrusted certificates. Whoever uses such a Context says so loudly.
func (c *Context) Insecure() bool { return c.insecure }

// Problems are the files that can't be used now, one line each; where there was a good version before, that is in
// use. Files are looked at first, at most once a second, so this is not for a loop.
func (c *Context) Problems() []string { return c.files.problems(c.now()) }

// config makes the configuration of one handshake. It may read files, so it is not for the loop.
func (c *Context) config(p Params) (*tls.Config, error) {
	m, err := c.files.get(c.now())
	if err != nil {
		return nil, err
	}
	sni := c.serverName(p)
	config := &tls.Config{
		ServerName: sni, MinVersion: c.params.min, MaxVersion: c.params.max,
		CipherSuites: c.params.suites, CurvePreferences: c.params.curves, NextProtos: c.alpn, Time: c.now,
		DynamicRecordSizingDisabled: true, // whole records: a request's first bytes are of no use by themselves
		InsecureSkipVerify:          true, // VerifyConnection does it all, resumed sessions included
	}
	if len(p.ALPN) > 0 {
		config.NextProtos = p.ALPN
	}
	name := ""
	if !c.insecure {
		v := &verifier{material: m, leafOnly: c.leafCRL, now: c.now}
		if v.name, v.sans, err = c.expect(sni, p); err != nil {
			return nil, err
		}
		name = v.name
		config.VerifyConnection = v.check
	}
	if m.sessions != nil {
		config.ClientSessionCache = &sessionCache{all: m.sessions, key: sni + "\x00" + name + "\x00" + p.EndpointKey}
	}
	if len(m.certs) > 0 {
		config.GetClientCertificate = m.clientCertificate
	}
	return config, nil
}

// serverName is the SNI to send: as in Envoy the request's override, then auto_host_sni, then sni.
func (c *Context) serverName(p Params) string {
	switch {
	case p.ServerName != "":
		return p.ServerName
	case c.autoHostSNI && p.Hostname != "":
		return p.Hostname
	}
	return c.sni
}

// expect says what name the certificate must carry: auto_sni_san_validation replaces everything else by the SNI; then
// the request's override; then the configured names. Where an authority is configured and none of these, Envoy takes
// a certificate for any name; here it must be for the SNI, or without one for the endpoint's own name.
func (c *Context) expect(sni string, p Params) (name string, sans []sanMatcher, err error) {
	switch {
	case c.autoSAN && sni != "":
		return sni, nil, nil
	case p.VerifyName != "":
		return p.VerifyName, nil, nil
	case len(c.sans) > 0:
		return "", c.sans, nil
	case sni != "":
		return sni, nil, nil
	case p.Hostname != "":
		return p.Hostname, nil, nil
	}
	return "", nil, &Error{Kind: KindConfig, Err: errors.New("no name to verify the certificate against: neither sni nor subject alternative names nor an endpoint name")}
}

// clientCertificate gives the first certificate that suits the server, else, as Envoy does, the first: the server's
// alert then says what is wrong, where sending none would not.
func (m *material) clientCertificate(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	for _, cert := range m.certs {
		if req.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return m.certs[0], nil
}

func unsupported(field string) error { return fmt.Errorf("%s is not supported", field) }
