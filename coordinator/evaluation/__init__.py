"""Evaluation of a version in simulation."""
