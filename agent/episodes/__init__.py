"""Recording, the crash-safe store, the quality gate and the split."""
