"""The full-size SmolVLA with random weights: for `bench_step` and `bench_chunk`."""
