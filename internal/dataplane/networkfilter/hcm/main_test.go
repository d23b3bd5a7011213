package hcm_test

import (
	"testing"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/dataplane/lb"
)

func TestMain(m *testing.M) {
	lb.Debug = true // a second Done panics
	goleak.VerifyTestMain(m)
}
