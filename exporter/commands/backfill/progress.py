"""Tells now and then how far a long work is."""

from collections.abc import Callable

EVERY = 10.0
"""Seconds between two lines."""


class Progress:
    """Passes on what it is told, at most every 10 s.

    Args:
        tell: Takes a line.
        monotonic: A clock that never jumps, in seconds.
    """

    def __init__(self, tell: Callable[[str], object], monotonic: Callable[[], float]) -> None:
        self._tell = tell
        self._monotonic = monotonic
        self._began = self._last = monotonic()

    def begin(self) -> None:
        """A part of the work begins; what is left of it is reckoned from now on."""
        self._began = self._last = self._monotonic()

    def __call__(self, line: str) -> None:
        """Tells this line, if none was told lately."""
        now = self._monotonic()
        if now - self._last >= EVERY:
            self._last = now
            self._tell(line)

    def seconds_left(self, done: int, total: int) -> float:
        """How long the rest will take if it goes on as since the beginning of this part; `done` is above 0."""
        return (self._monotonic() - self._began) / done * (total - done)
