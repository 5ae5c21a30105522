"""Benchmarks that a person runs by hand: `make bench-loop` and others."""
