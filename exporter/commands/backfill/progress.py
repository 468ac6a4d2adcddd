"""Reports progress."""

from collections.abc import Callable

REPORT_INTERVAL = 10.0
"""Minimum seconds between two lines."""


class Progress:
    """Reports at most one line per REPORT_INTERVAL seconds.

    Args:
        report: Receives a line.
        monotonic: A monotonic clock, in seconds.
    """

    def __init__(self, report: Callable[[str], object], monotonic: Callable[[], float]) -> None:
        self._report = report
        self._monotonic = monotonic
        self._part_started = self._last = monotonic()

    def start_part(self) -> None:
        """Start a part of the work. `seconds_left` estimates the rest of this part."""
        self._part_started = self._last = self._monotonic()

    def __call__(self, line: str) -> None:
        """Report a line, unless the last one was reported less than REPORT_INTERVAL seconds ago."""
        now = self._monotonic()
        if now - self._last >= REPORT_INTERVAL:
            self._last = now
            self._report(line)

    def seconds_left(self, done: int, total: int) -> float:
        """Return an estimate of the seconds until the part is finished. `done`: more than 0 of `total`."""
        return (self._monotonic() - self._part_started) / done * (total - done)
