"""Arms measured, tested and judged; draws nothing."""
