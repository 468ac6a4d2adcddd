"""The state on disk: its tables, and the file that holds them."""
