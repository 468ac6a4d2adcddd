"""How long to wait for the next poll."""

LONGEST_BACKOFF = 300.0
BACKOFF_INTERVALS = 10
"""While polls fail they come less often, up to the shorter of these: seconds, and intervals."""


def backoff(interval: float, failures: int) -> float:
    """Return the seconds to the next poll after failed ones in a row: the first failure changes nothing."""
    if failures <= 1:
        return interval
    longest = max(interval, min(BACKOFF_INTERVALS * interval, LONGEST_BACKOFF))
    return float(min(interval * 2 ** min(failures - 1, 16), longest))
