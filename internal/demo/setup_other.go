//go:build !linux

package demo

import (
	"context"
	"net/netip"
)

func linkUp() error { return ErrUnavailable }

func mountResolver(string) error { return ErrUnavailable }

func drop(netip.Addr) error { return ErrUnavailable }

// Run plays the steps, on Linux.
func Run(context.Context, Options) (status int, err error) { return 1, ErrUnavailable }
