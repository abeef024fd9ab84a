"""One plot a file, drawn as SVG."""
