"""Renders `/metrics`, and decides when."""
