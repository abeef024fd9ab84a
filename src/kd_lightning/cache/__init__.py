"""The teacher whose answers are stored: decided, planned, written, read."""
