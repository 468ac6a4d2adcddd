"""Asking an API within its budget."""
