//go:build !linux

package intercept

// Loopback has nothing to decide on this system, where nothing is captured.
type Loopback struct{}

// NewLoopback decides nothing on this system.
func NewLoopback(LoopbackConfig) *Loopback { return &Loopback{} }

// Close does nothing.
func (*Loopback) Close() error { return nil }
