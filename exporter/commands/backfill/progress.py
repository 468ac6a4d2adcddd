"""Reports the progress of long work."""

from collections.abc import Callable

EVERY = 10.0
"""Seconds between two lines."""


class Progress:
    """Passes on at most one line per 10 s.

    Args:
        tell: Receives a line.
        monotonic: A monotonic clock, in seconds.
    """

    def __init__(self, tell: Callable[[str], object], monotonic: Callable[[], float]) -> None:
        self._tell = tell
        self._monotonic = monotonic
        self._began = self._last = monotonic()

    def begin(self) -> None:
        """Begin a part of the work; the time left is estimated from now on."""
        self._began = self._last = self._monotonic()

    def __call__(self, line: str) -> None:
        """Pass this line on, unless one was a moment ago."""
        now = self._monotonic()
        if now - self._last >= EVERY:
            self._last = now
            self._tell(line)

    def seconds_left(self, done: int, total: int) -> float:
        """Return the seconds that the rest takes at the pace of this part so far; `done` is above 0."""
        return (self._monotonic() - self._began) / done * (total - done)
