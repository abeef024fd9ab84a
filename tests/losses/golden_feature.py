"""Golden mappings of the feature losses."""
