# Shortcuts for what has arguments worth remembering; everything else is the go command (CONTRIBUTING.md).

.PHONY: bench-check bench-check-quick

# The hot paths' benchmarks of the working tree against the previous commit, or BASE=rev: allocations and times. Minutes.
bench-check:
	go run ./bench/check

# The same, allocations only, of what has changed; part of test/run.
bench-check-quick:
	go run ./bench/check --quick
