package tlstransport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// verifier checks one handshake's peer.
type verifier struct {
	*material
	name     string // the DNS name or address the certificate must carry, "" where sans decides
	sans     []sanMatcher
	leafOnly bool // only_verify_leaf_cert_crl
	now      func() time.Time
}

// check is crypto/tls's VerifyConnection: it runs on every handshake, and a resumed session, which carries the chain that it
// began with, is judged as any other.
func (v *verifier) check(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &Error{Kind: KindCertificate, Err: errors.New("the peer sent none")}
	}
	leaf := cs.PeerCertificates[0]
	err := v.checkChain(cs.PeerCertificates)
	if err == nil {
		err = v.checkName(leaf)
	}
	if err != nil {
		return &Error{Kind: KindCertificate, Names: certNames(leaf), Err: err}
	}
	return nil
}

func (v *verifier) checkChain(certs []*x509.Certificate) error {
	key, now := keyOf(certs), v.now()
	if v.chains.has(key, now) {
		return nil
	}
	opts := x509.VerifyOptions{Roots: v.roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(opts)
	if err != nil {
		return err
	}
	for _, chain := range chains {
		var until time.Time
		if until, err = v.checkRevoked(chain, now); err == nil {
			v.chains.put(key, now, until)
			return nil
		}
	}
	return err
}

// checkRevoked follows Envoy (X509_V_FLAG_CRL_CHECK): with revocation lists configured, the leaf's issuer, and every
// other's unless only the leaf is to be checked, must have one that is valid now. until is when the chain, or a list that it
// depends on, expires.
func (v *verifier) checkRevoked(chain []*x509.Certificate, now time.Time) (until time.Time, err error) {
	until = chain[0].NotAfter
	for _, c := range chain[1:] {
		until = earlier(until, c.NotAfter)
	}
	if len(v.crls) == 0 {
		return until, nil
	}
	last := len(chain) - 1 // the root is trusted by decision, not by its issuer
	if v.leafOnly {
		last = min(last, 1)
	}
	for i := range last {
		list := v.listOf(chain[i+1])
		if list == nil {
			return until, fmt.Errorf("no revocation list of %s", chain[i+1].Subject)
		}
		if !list.NextUpdate.IsZero() {
			if now.After(list.NextUpdate) {
				return until, fmt.Errorf("the revocation list of %s expired at %s", chain[i+1].Subject, list.NextUpdate.Format(time.RFC3339))
			}
			until = earlier(until, list.NextUpdate)
		}
		if revoked(list, chain[i].SerialNumber) {
			return until, fmt.Errorf("%s is revoked", chain[i].Subject)
		}
	}
	return until, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (v *verifier) listOf(issuer *x509.Certificate) *x509.RevocationList {
	for _, list := range v.crls {
		if list.CheckSignatureFrom(issuer) == nil {
			return list
		}
	}
	return nil
}

func revoked(list *x509.RevocationList, serial *big.Int) bool {
	for i := range list.RevokedCertificateEntries {
		if list.RevokedCertificateEntries[i].SerialNumber.Cmp(serial) == 0 {
			return true
		}
	}
	return false
}

func (v *verifier) checkName(leaf *x509.Certificate) error {
	if v.name != "" {
		if leaf.VerifyHostname(v.name) != nil {
			return fmt.Errorf("it is not valid for %s", v.name)
		}
		return nil
	}
	for _, m := range v.sans {
		if m.matches(leaf) {
			return nil
		}
	}
	return errors.New("none of its names matches the configured subject alternative names")
}

// certNames lists a certificate's subject alternative names.
func certNames(c *x509.Certificate) []string {
	names := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	return append(names, c.EmailAddresses...)
}
