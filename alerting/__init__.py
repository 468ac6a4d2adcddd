"""Writes the rules of Prometheus."""
