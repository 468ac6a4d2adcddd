"""Records of jobs and sources, and functions that decide what a row means and what it adds to a record."""
