"""Workato."""
