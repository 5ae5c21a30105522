"""LoRA aggregation: buffer, weights, mean and server optimiser."""
