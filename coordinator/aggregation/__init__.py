"""LoRA aggregation: buffer, weights, aggregators and server optimiser."""
