"""What counts: the records of jobs and sources, and pure functions on them."""
