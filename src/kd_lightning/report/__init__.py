"""What people read of a comparison: tables, pages, and the page of a run."""
