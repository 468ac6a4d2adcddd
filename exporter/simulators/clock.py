"""A clock that tests move."""

import threading


class Clock:
    """A clock that can be set; call it for the time in Unix seconds. Thread-safe."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def set(self, now: float) -> None:
        """Jump to a time, forward or back."""
        with self._lock:
            self._now = now

    def advance(self, seconds: float) -> float:
        """Move forward, or back if negative, and return the new time."""
        with self._lock:
            self._now += seconds
            return self._now
