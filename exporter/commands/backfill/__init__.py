"""The command `backfill`: reads, replays and writes runs from before the first poll."""
