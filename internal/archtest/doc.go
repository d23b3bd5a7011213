// Package archtest holds the arrows between packages (docs/ARCHITECTURE.md). It has no code but its test.
package archtest
