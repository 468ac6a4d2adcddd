"""The configuration: what a file may say, read with all its faults at once."""
