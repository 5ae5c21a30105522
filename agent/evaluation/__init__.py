"""Rollouts on the arm: labels, traces and video."""
