"""For `bench_async`."""
