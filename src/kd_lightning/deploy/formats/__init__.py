"""A file is an export format: how it is written, and how it is run again."""
