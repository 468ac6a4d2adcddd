"""What pages and JSON tell of jobs, runs and sources."""
