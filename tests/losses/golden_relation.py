"""Golden mappings of the relation losses."""
