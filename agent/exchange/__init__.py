"""Flower ClientApp, warm executor, outbox and inbox."""
