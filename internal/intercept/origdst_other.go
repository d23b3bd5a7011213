//go:build !linux

package intercept

import (
	"errors"
	"net/netip"
)

// OriginalDst is not known on this system.
func OriginalDst(int) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.ErrUnsupported
}
