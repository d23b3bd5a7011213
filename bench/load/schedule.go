//go:build linux

package load

import "time"

// schedule is the open loop's timetable: request i is due at start + i/rate. Times are since the generator's own start.
type schedule struct {
	start time.Duration
	rate  float64
	next  int64 // first request that was not handed out
}

// at gives the time at which request i is due. Computed from i each time, so that rounding does not add up.
func (s *schedule) at(i int64) time.Duration {
	return s.start + time.Duration(float64(i)*1e9/s.rate)
}

// take hands out the next request if it is due.
func (s *schedule) take(now time.Duration) (due time.Duration, ok bool) {
	if due = s.at(s.next); due > now {
		return 0, false
	}
	s.next++
	return due, true
}
