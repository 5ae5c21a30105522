"""The policy: loading a base, adapters over it, and action chunks from it."""
