"""The student behind HTTP, with a page to try it."""
