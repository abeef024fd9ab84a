"""Golden mappings of the token losses."""
