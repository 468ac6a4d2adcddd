"""What past runs teach about a job: pure functions."""
