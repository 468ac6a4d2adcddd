"""The command `backfill`: reads and replays the runs from before the first poll, and writes their metrics."""
