# Shortcuts for what has arguments worth remembering; everything else is the go command (CONTRIBUTING.md).

.PHONY: bench bench-scale bench-quick bench-check bench-check-quick

# detour beside HAProxy, nginx and Envoy: every row of docs/performance.md, about an hour on two quiet CPUs. ROWS=a,b measures some.
bench:
	bench/install
	go run ./bench $(if $(ROWS),--rows $(ROWS))

# What 1,000, 5,000 and 20,000 ServiceEntries cost, in full and after one change: a table of docs/performance.md. Two minutes.
bench-scale:
	go run ./bench/scale/table -write docs/performance.md

# A few rows with short rounds, under a minute; writes nothing.
bench-quick:
	bench/install
	go run ./bench --quick

# The hot paths' benchmarks of the working tree against the previous commit, or BASE=rev: allocations and times. Minutes.
bench-check:
	go run ./bench/check

# The same, allocations only, of what has changed; part of test/run.
bench-check-quick:
	go run ./bench/check --quick
