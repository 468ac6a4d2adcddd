"""The command `explain`: lists the runs behind a number."""
