"""Reports the progress of long work."""

from collections.abc import Callable

EVERY = 10.0
"""Seconds between two lines."""


class Progress:
    """Passes on at most one line per EVERY seconds.

    Args:
        tell: Receives a line.
        monotonic: A monotonic clock, in seconds.
    """

    def __init__(self, tell: Callable[[str], object], monotonic: Callable[[], float]) -> None:
        self._tell = tell
        self._monotonic = monotonic
        self._began = self._last = monotonic()

    def begin(self) -> None:
        """Begin a part of the work. `seconds_left` refers to this part."""
        self._began = self._last = self._monotonic()

    def __call__(self, line: str) -> None:
        """Pass a line on, unless one was passed on less than EVERY seconds ago."""
        now = self._monotonic()
        if now - self._last >= EVERY:
            self._last = now
            self._tell(line)

    def seconds_left(self, done: int, total: int) -> float:
        """Return the estimated seconds until all of `total` are done. `done` must be above 0."""
        return (self._monotonic() - self._began) / done * (total - done)
