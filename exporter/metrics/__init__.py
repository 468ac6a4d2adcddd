"""The one table of metric families, and zero-first."""
