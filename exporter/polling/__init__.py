"""Polls each source, one poll after the other."""
