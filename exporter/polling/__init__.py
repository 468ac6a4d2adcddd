"""One poll after the other, of each source."""
