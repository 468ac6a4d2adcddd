"""The clock that tests move."""

import threading


class Clock:
    """A settable clock: call it for the current instant in Unix seconds. Safe to move while servers read it."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """The current instant."""
        return self._now

    def set(self, now: float) -> None:
        """Jumps to an instant, forward or back."""
        with self._lock:
            self._now = now

    def advance(self, seconds: float) -> float:
        """Moves on (or back, if negative) and gives the new instant."""
        with self._lock:
            self._now += seconds
            return self._now
