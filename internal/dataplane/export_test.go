package dataplane

// SetMaxLookups sets how many requests of a worker may wait for look-ups, before a Plane runs, and gives the function that sets
// it back.
func SetMaxLookups(n int) func() {
	old := maxLookups
	maxLookups = n
	return func() { maxLookups = old }
}
