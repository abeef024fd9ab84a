"""Where pictures come from: a file is a source with `load() -> Arrays`."""
