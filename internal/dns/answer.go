// Package dns owns looking names up: a stub resolver (RFC 1034 §5.3.1) for endpoint names, and the raw forwarding of
// other programs' queries to the same servers. It keeps no cache: whoever needs a name over time watches it
// (internal/dataplane/discovery) and decides by the answer's TTL when to ask again.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Family says which addresses of a name are wanted (Envoy's DnsLookupFamily).
type Family uint8

const (
	// All asks for A and AAAA at the same time.
	All Family = iota
	// V4 asks for A only.
	V4
	// V6 asks for AAAA only.
	V6
)

// Answer is the outcome of one lookup. Either Addrs holds at least one address or Err is an *Error.
type Answer struct {
	// Addrs are sorted, without duplicates.
	Addrs []netip.Addr
	// First is the one of Addrs that the server named first, so that servers can spread load by rotating them; the zero
	// Addr where the source has no order.
	First netip.Addr
	// TTL is the smallest of all records that led from the name to the addresses; 0 when the source has none
	// (literals, the hosts file) or says 0.
	TTL time.Duration
	Err error
	// Missing, in a lookup of All that found addresses, is the family whose question was not answered (SERVFAIL,
	// timeout): what was known of that family is still the best knowledge. All means that nothing is missing.
	Missing Family
}

// Kind classifies why a lookup gave no address.
type Kind uint8

const (
	// NXDomain: the name does not exist (RCODE 3).
	NXDomain Kind = iota + 1
	// NoData: the name exists, without an address of the wanted family (RFC 2308 §2.2).
	NoData
	// ServFail: a server answered that it could not find out, or answered nonsense.
	ServFail
	// Timeout: no server answered in time.
	Timeout
	// Refused: the servers refuse to answer (RCODE 5), or nothing listens there.
	Refused
	// Local: the query could not be sent because of this machine: no network, no route, no file descriptors.
	Local
	// Canceled: the caller's context ended first; says nothing about the name.
	Canceled
)

var kindText = [...]string{NXDomain: "no such name", NoData: "no addresses", ServFail: "server failure",
	Timeout: "timeout", Refused: "refused", Local: "no network here", Canceled: "canceled"}

func (k Kind) String() string {
	if int(k) < len(kindText) && kindText[k] != "" {
		return kindText[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Error says why a lookup or an exchange failed.
type Error struct {
	Kind   Kind
	Name   string // as the caller gave it; empty for a forwarded message
	Server string // address:port of the last server asked; empty when none was
	Err    error  // the cause, may be nil
}

func (e *Error) Error() string {
	s := "dns: " + e.Kind.String()
	if e.Name != "" {
		s = "dns: " + e.Name + ": " + e.Kind.String()
	}
	if e.Server != "" {
		s += " (server " + e.Server + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Timeout implements net.Error's method of this name.
func (e *Error) Timeout() bool { return e.Kind == Timeout }

// KindOf gives the kind of an error from this package, 0 for any other.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return 0
}

// localErrnos are the errors of socket, connect and send that this machine causes by itself.
var localErrnos = []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL,
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN, syscall.EPERM, syscall.EACCES}

// netError classifies an I/O error of one try.
func netError(err error) Kind {
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	}
	for _, no := range localErrnos {
		if errors.Is(err, no) {
			return Local
		}
	}
	return ServFail
}
