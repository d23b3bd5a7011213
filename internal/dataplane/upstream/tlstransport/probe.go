package tlstransport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

var errSeen = errors.New("certificate seen")

// Probe tells which names the certificate at the other end of a connection carries for serverName as SNI, and until when it
// is valid. Nothing is verified and nothing is sent: it is for messages only. It answers even when the server then refuses
// the handshake, for lack of a client certificate say. It blocks until ctx ends, and leaves a connection that is of no use but
// to be closed.
func Probe(ctx context.Context, raw net.Conn, serverName string) (names []string, notAfter time.Time, err error) {
	seen := false
	tc := tls.Client(raw, &tls.Config{
		ServerName: serverName, MinVersion: tls.VersionTLS10, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			seen = true
			names, notAfter = namesOf(cs), cs.PeerCertificates[0].NotAfter
			return errSeen
		},
	})
	err = tc.HandshakeContext(ctx)
	if seen {
		return names, notAfter, nil
	}
	if ctx.Err() != nil {
		return nil, time.Time{}, ctx.Err()
	}
	return nil, time.Time{}, classify(err)
}

func namesOf(cs tls.ConnectionState) []string { return certNames(cs.PeerCertificates[0]) }
