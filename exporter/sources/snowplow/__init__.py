"""Snowplow Console."""
