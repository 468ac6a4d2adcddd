"""The book of all runs: every change is one transaction."""
