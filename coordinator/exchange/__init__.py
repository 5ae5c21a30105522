"""Flower ServerApp, check-in plan and intake of updates."""
