"""Computes how long to wait for the next poll."""

LONGEST_BACKOFF = 300.0
BACKOFF_INTERVALS = 10
"""Maximum interval while polls fail, in seconds and in intervals: the shorter applies."""


def backoff(interval: float, failures: int) -> float:
    """Return the seconds to the next poll after consecutive failed polls. The first failure changes nothing."""
    if failures <= 1:
        return interval
    longest = max(interval, min(BACKOFF_INTERVALS * interval, LONGEST_BACKOFF))
    return float(min(interval * 2 ** min(failures - 1, 16), longest))
