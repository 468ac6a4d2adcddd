"""Strait."""
