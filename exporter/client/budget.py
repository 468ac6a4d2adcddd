"""How many requests may be sent, and when: one budget for all that use one credential.

`Pace` is the arithmetic, without clock or lock; `Budget` adds both. Instants are those of a monotonic clock.
"""

import math
import threading
from collections import deque
from collections.abc import Callable

from exporter.errors import RateLimitedError

LONGEST_BLOCK = 3600.0
"""Whatever a server says, it is asked again after this many seconds."""
RESERVE = 0.1
"""The part of the server's limit that is left to others who use the same account."""


class Stopped(Exception):  # noqa: N818  # an order that was obeyed, not an error
    """The process is shutting down; a wait was cut short."""


class Pace:
    """When the next request may go: never more than `size` in any `period`, nor sooner than the server wants."""

    def __init__(self, requests_per_minute: float) -> None:
        self.size = max(1, math.floor(requests_per_minute))
        self.period = 60.0 * self.size / requests_per_minute
        self._taken: deque[float] = deque(maxlen=self.size)
        self._blocked_until = -math.inf
        self._spacing = 0.0
        self._spaced_until = -math.inf

    def earliest(self, now: float) -> float:
        """The first instant, `now` or later, at which a request may go."""
        free = max(now, self._blocked_until)
        if len(self._taken) == self.size:
            free = max(free, self._taken[0] + self.period)
        if self._taken:
            free = max(free, min(self._taken[-1] + self._spacing, self._spaced_until))
        return free

    def take(self, now: float) -> None:
        """A request goes now."""
        self._taken.append(now)

    def block(self, now: float, seconds: float) -> None:
        """No request for so many seconds; an earlier, longer block stays."""
        if seconds > 0:
            self._blocked_until = max(self._blocked_until, now + min(seconds, LONGEST_BLOCK))

    def space(self, now: float, limit: float, remaining: float, reset_seconds: float) -> None:
        """Spreads `remaining`, less a tenth of `limit`, evenly until the server's reset."""
        usable = remaining - RESERVE * limit
        if usable < 1:
            self.block(now, reset_seconds)
            return
        self._spacing = reset_seconds / usable
        self._spaced_until = now + min(reset_seconds, LONGEST_BLOCK)


class Budget:
    """The requests that one credential may make; shared between threads and sources.

    `sleep` waits so many seconds and returns True if the process is shutting down (None or False otherwise).
    """

    def __init__(
        self,
        requests_per_minute: float,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], bool | None],
    ) -> None:
        self._pace = Pace(requests_per_minute)
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()

    @property
    def period(self) -> float:
        """Seconds in which the whole budget may be used once."""
        return self._pace.period

    def acquire(self, deadline: float) -> float:
        """Waits until one request may go, and takes it; returns the seconds waited.

        Raises:
            RateLimitedError: It would have to wait beyond `deadline`, an instant of the monotonic clock.
            Stopped: The process is shutting down.
        """
        started = self._monotonic()
        while (pause := self._try(deadline)) > 0:
            if self._sleep(pause):
                raise Stopped
        return self._monotonic() - started

    def wait(self) -> float:
        """Seconds until the next request may go, as it looks now."""
        with self._lock:
            now = self._monotonic()
            return self._pace.earliest(now) - now

    def blocked_until(self, seconds: float) -> None:
        """The server wants no request for so many seconds from now."""
        if math.isfinite(seconds):
            with self._lock:
                self._pace.block(self._monotonic(), seconds)

    def observe(self, limit: float | None, remaining: float, reset_seconds: float) -> None:
        """The server says how many requests remain until its reset; without a limit, `remaining` stands for it."""
        limit = remaining if limit is None else limit
        if all(math.isfinite(number) and number >= 0 for number in (limit, remaining, reset_seconds)):
            with self._lock:
                self._pace.space(self._monotonic(), limit, remaining, reset_seconds)

    def _try(self, deadline: float) -> float:
        """Takes a request and returns 0, or the seconds to wait before another try.

        The instant is taken anew after each wait, not reserved before it: a late riser must not squeeze two requests
        together, and a block that came meanwhile holds for it too.
        """
        with self._lock:
            now = self._monotonic()
            free = self._pace.earliest(now)
            if free <= now:
                self._pace.take(now)
                return 0.0
            if free > deadline:
                raise RateLimitedError(f"no request may be sent for {free - now:.0f} s: the budget is used up")
            return free - now
