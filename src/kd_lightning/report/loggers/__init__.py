"""Loggers that also show the comparison: W&B, trackio."""
