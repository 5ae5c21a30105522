"""The agent's processes, started or changed for a measurement."""
