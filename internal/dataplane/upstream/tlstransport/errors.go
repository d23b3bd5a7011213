package tlstransport

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
)

// Kind says whose fault a failed handshake or a broken stream is.
type Kind uint8

const (
	// KindIO is an error of the connection itself: a reset, a timeout of TCP. Err unwraps to the syscall.Errno.
	KindIO Kind = iota
	// KindConfig is ours: a certificate file that can't be read, no name to verify. Nothing of it is the endpoint's
	// fault, so outlier detection must not count it; nothing was sent.
	KindConfig
	// KindCertificate means that the peer's certificate was refused: wrong name, unknown authority, expired, revoked.
	KindCertificate
	// KindAlert means that the peer sent a fatal alert.
	KindAlert
	// KindProtocol means that the peer does not speak TLS, or breaks its rules.
	KindProtocol
	// KindEOF means that the peer closed the connection during the handshake, or after it without close_notify.
	KindEOF
)

var kindNames = [...]string{"connection error", "configuration error", "certificate refused", "alert from peer", "protocol error", "closed by peer"}

func (k Kind) String() string { return kindNames[k] }

// Error is how every failure of this package reaches its callers.
type Error struct {
	Kind Kind
	// Names are the names that the peer's certificate carries, with KindCertificate.
	Names []string
	Err   error
}

func (e *Error) Error() string {
	text := "TLS: " + e.Kind.String() + ": " + strings.TrimPrefix(e.Err.Error(), "tls: ")
	if e.Kind == KindCertificate {
		text += "; the certificate is for " + nameList(e.Names)
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func nameList(names []string) string {
	const shown = 8
	switch {
	case len(names) == 0:
		return "no name"
	case len(names) > shown:
		return strings.Join(names[:shown], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// connError carries an error of the socket through crypto/tls. It is no net.Error on purpose: crypto/tls takes
// temporary ones for "try again".
type connError struct{ error }

func (e connError) Unwrap() error { return e.error }

// wouldBlock is what the established connection's Read gives crypto/tls when the socket has nothing: temporary
// errors leave a half-read record where it is (crypto/tls's readRecordOrCCS).
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "would block" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

var errWouldBlock net.Error = wouldBlock{}

// classify gives err its Kind.
func classify(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var sock connError
	if errors.As(err, &sock) {
		return &Error{Kind: KindIO, Err: sock.error}
	}
	var op *net.OpError
	var header tls.RecordHeaderError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Kind: KindEOF, Err: io.ErrUnexpectedEOF}
	case errors.As(err, &op) && op.Op == "remote error":
		return &Error{Kind: KindAlert, Err: op.Err}
	case errors.As(err, &header):
		return &Error{Kind: KindProtocol, Err: errors.New(header.Msg)}
	}
	return &Error{Kind: KindProtocol, Err: err}
}
