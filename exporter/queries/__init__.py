"""Answers for pages and JSON about jobs, runs and sources."""
