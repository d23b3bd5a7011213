//go:build unix && !linux

package event

type pipe struct{}

type pipes struct{}

// DropPipes has none to drop.
func (d *Dispatcher) DropPipes() {}

// Fill always says ErrNoSplice.
func (sp *Splice) Fill(*Socket, int64) (int, error) { return 0, ErrNoSplice }

// Drain is never called, since Fill takes nothing.
func (sp *Splice) Drain(*Socket) (int, error) { return 0, ErrNoSplice }

func (sp *Splice) giveBack(*Dispatcher) {}
