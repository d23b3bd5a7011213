package event

import "time"

// poller waits for readiness.
type poller interface {
	add(s *Socket) error
	remove(s *Socket)
	// wait sleeps at most timeout (forever when negative) and says how many events dispatch will find.
	wait(d *Dispatcher, timeout time.Duration) int
	dispatch(d *Dispatcher, n int)
	wake()
	close()
}
