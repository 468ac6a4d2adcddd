"""Which runs make up a number."""
