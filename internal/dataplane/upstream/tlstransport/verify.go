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

// check is crypto/tls's VerifyConnection: it runs on every handshake. A resumed session's chain was verified when the
// session began, against the same trust (a change drops all sessions), so that its dates, name and revocation remain.
func (v *verifier) check(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &Error{Kind: KindCertificate, Err: errors.New("the peer sent none")}
	}
	leaf := cs.PeerCertificates[0]
	var err error
	if cs.DidResume {
		err = v.checkDates(leaf)
	} else {
		err = v.checkChain(cs.PeerCertificates)
	}
	if err == nil {
		err = v.checkName(leaf)
	}
	if err != nil {
		return &Error{Kind: KindCertificate, Names: certNames(leaf), Err: err}
	}
	return nil
}

func (v *verifier) checkDates(leaf *x509.Certificate) error {
	if now := v.now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired}
	}
	return nil
}

func (v *verifier) checkChain(certs []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: v.roots, Intermediates: x509.NewCertPool(), CurrentTime: v.now()}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(opts)
	if err != nil || len(v.crls) == 0 {
		return err
	}
	for _, chain := range chains {
		if err = v.checkRevoked(chain); err == nil {
			return nil
		}
	}
	return err
}

// checkRevoked follows Envoy (X509_V_FLAG_CRL_CHECK): with revocation lists configured, the leaf's issuer, and every
// other's unless only the leaf is to be checked, must have one that is valid now.
func (v *verifier) checkRevoked(chain []*x509.Certificate) error {
	last := len(chain) - 1 // the root is trusted by decision, not by its issuer
	if v.leafOnly {
		last = min(last, 1)
	}
	for i := range last {
		list := v.listOf(chain[i+1])
		if list == nil {
			return fmt.Errorf("no revocation list of %s", chain[i+1].Subject)
		}
		if now := v.now(); !list.NextUpdate.IsZero() && now.After(list.NextUpdate) {
			return fmt.Errorf("the revocation list of %s expired at %s", chain[i+1].Subject, list.NextUpdate.Format(time.RFC3339))
		}
		if revoked(list, chain[i].SerialNumber) {
			return fmt.Errorf("%s is revoked", chain[i].Subject)
		}
	}
	return nil
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
