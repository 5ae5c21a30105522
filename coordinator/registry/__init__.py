"""Nodes, updates and versions: folders, and SQLite as their index."""
