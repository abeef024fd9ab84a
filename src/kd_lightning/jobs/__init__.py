"""What `job=<name>` runs: one screen each."""
