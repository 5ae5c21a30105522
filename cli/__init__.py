"""The `armfleet` command."""
