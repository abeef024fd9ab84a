"""One paper a file: a pure function and a module; torch only."""
