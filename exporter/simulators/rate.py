"""A vendor's rate limit."""

import threading
from collections.abc import Callable

import msgspec


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """A limit after one request. `reset`: seconds until the next window. `allowed`: whether the request is allowed."""

    limit: int
    remaining: int
    reset: float
    allowed: bool


class FixedWindow:
    """A number of requests per window of `seconds`; each window starts at 0."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._window = 0.0
        self._used = 0

    def take(self, limit: int) -> Quota:
        """Count one request. A refused request does not count."""
        with self._lock:
            now = self._clock()
            window = now // self._seconds
            if window != self._window:
                self._window, self._used = window, 0
            allowed = self._used < limit
            self._used += allowed
            reset = (window + 1) * self._seconds - now
            return Quota(limit=limit, remaining=limit - self._used, reset=reset, allowed=allowed)
