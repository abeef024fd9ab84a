"""Frozen roles whose answers are stored: decided, planned, written, read."""
