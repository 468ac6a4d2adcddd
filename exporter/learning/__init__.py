"""Learns expectations of a job from its past runs: pure functions."""
