"""Run folders, JSON that is never half written, locks, files that come with other packages."""
