"""For `bench_promotion`."""
