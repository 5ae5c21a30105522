"""LoRA training in idle windows: data, feature cache, loop, checkpoints."""
