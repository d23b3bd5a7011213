//go:build unix && !linux

package event

func newPoller() (poller, error) { return newPoll() }
