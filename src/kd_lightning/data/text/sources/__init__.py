"""Where texts come from: a file is a source."""
