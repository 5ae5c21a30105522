"""For `soak_episodes`; `bench_preempt` takes its steps."""
