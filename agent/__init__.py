"""The service on a robot workstation."""
