"""The request budget of a credential: how many requests may be sent, and when.

`Pace` computes without clock or lock; `Budget` adds both. All times are of a monotonic clock.
"""

import contextlib
import contextvars
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from exporter.errors import RateLimitedError

# Maximum seconds for which a response can block requests.
MAX_BLOCK = 3600.0
RESERVED_SHARE = 0.1
"""Fraction of the server's limit that is left to other clients of the same account."""
REQUESTS_PER_PAGE_REQUEST = 4
"""Of this many requests, at most one is for a page."""
# Seconds between probes. A probe is a request during a block, because the server may recover early.
PROBE_INTERVAL = 300.0
# Maximum seconds per sleep. After each sleep the wait is computed again, and the metric of waiting is updated.
MAX_SLEEP = 5.0

_for_page = contextvars.ContextVar("_for_page", default=False)


@contextlib.contextmanager
def for_page() -> Iterator[None]:
    """Mark this thread's requests as sent for a page that a person opened. Polls have priority over them."""
    token = _for_page.set(True)
    try:
        yield
    finally:
        _for_page.reset(token)


class Stopped(Exception):  # noqa: N818  # not an error
    """The process is shutting down, so a wait has ended early."""


def is_for_page() -> bool:
    """Return whether requests of this thread are for a page that a person opened."""
    return _for_page.get()


class Pace:
    """Computes when the next request may be sent: at most `size` per `period`, and only when the server allows it.

    At most a quarter of the requests are for pages, but each process may always send one per period.
    """

    def __init__(self, requests_per_minute: float) -> None:
        self.size = max(1, math.floor(requests_per_minute))
        self.period = 60.0 * self.size / requests_per_minute
        self._taken: deque[float] = deque(maxlen=self.size)
        self._page_times: deque[float] = deque(maxlen=max(1, self.size // REQUESTS_PER_PAGE_REQUEST))
        self._blocked_since = self._blocked_until = -math.inf
        self._spacing = 0.0
        self._spaced_until = -math.inf

    def inherit(self, before: "Pace") -> None:
        """Copy the requests and the server's limits from an earlier pace."""
        taken, page_times = before._taken, before._page_times  # noqa: SLF001  # our own class, as below
        self._taken.extend(taken)
        self._page_times.extend(page_times)
        self._blocked_since, self._blocked_until = before._blocked_since, before._blocked_until  # noqa: SLF001
        self._spacing, self._spaced_until = before._spacing, before._spaced_until  # noqa: SLF001

    def recent(self, now: float) -> list[float]:
        """Return the times of the requests that still use the budget, oldest first."""
        return [time for time in self._taken if time > now - self.period]

    def add_requests(self, times: Iterable[float], now: float) -> None:
        """Replace the recorded requests by those of another process, unless more are recorded here."""
        sent = sorted(times)[-self.size :]
        if len(sent) > len(self.recent(now)):
            self._taken = deque(sent, maxlen=self.size)

    def earliest(self, now: float) -> float:
        """Return the first time, `now` or later, at which a request may be sent."""
        free = self._unblocked(now)
        if len(self._taken) == self.size:
            free = max(free, self._taken[0] + self.period)
        if self._taken:
            free = max(free, min(self._taken[-1] + self._spacing, self._spaced_until))
        return free

    def earliest_for_page(self, now: float, processes: int = 1) -> float:
        """Return the first time, `now` or later, at which a request for a page may be sent if no poll waits.

        `processes`: number of processes that share the credential, and so the requests for pages.
        """
        free = max(self.earliest(now), self._blocked_until)
        share = max(1, self.size // REQUESTS_PER_PAGE_REQUEST // processes)
        if len(self._page_times) >= share:
            free = max(free, self._page_times[-share] + self.period)
        if self._page_times:
            free = max(free, min(self._page_times[-1] + REQUESTS_PER_PAGE_REQUEST * self._spacing, self._spaced_until))
        return free

    def take(self, now: float, *, page_request: bool = False) -> None:
        """Record a request."""
        self._taken.append(now)
        if page_request:
            self._page_times.append(now)

    def block(self, now: float, seconds: float) -> None:
        """Block requests, except probes, for this many seconds. A longer block stays."""
        if seconds > 0:
            self._blocked_until = max(self._blocked_until, now + min(seconds, MAX_BLOCK))
            self._blocked_since = now

    def succeeded(self, sent: float) -> None:
        """End the block if the request that has succeeded was sent after it began."""
        if sent > self._blocked_since:
            self._blocked_until = -math.inf

    def _unblocked(self, now: float) -> float:
        """Return the first time at which no block applies, or a probe may be sent."""
        if now >= self._blocked_until:
            return now
        last = self._taken[-1] if self._taken else -math.inf
        probe = max(self._blocked_since, last) + PROBE_INTERVAL
        return max(now, min(probe, self._blocked_until))

    def space(self, now: float, limit: float, remaining: float, reset_seconds: float) -> None:
        """Spread the remaining requests, except a tenth of the limit, evenly over the seconds until the reset."""
        usable = remaining - RESERVED_SHARE * limit
        if usable < 1:
            self.block(now, reset_seconds)
            return
        self._spacing = reset_seconds / usable
        self._spaced_until = now + min(reset_seconds, MAX_BLOCK)


class Budget:
    """The request budget of one credential. Threads and sources share it.

    Args:
        sleep: Sleeps for some seconds. Returns True if the process is shutting down.
        stopping: Returns whether polls must stop sending requests.
        processes: Returns how many processes send requests for pages with this credential.
        before: The budget that this one replaces: its requests and blocks are kept.
    """

    def __init__(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
        self,
        requests_per_minute: float,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], bool | None],
        stopping: Callable[[], bool] = lambda: False,
        processes: Callable[[], int] = lambda: 1,
        before: "Budget | None" = None,
    ) -> None:
        self._lock = threading.Lock()
        self._pace = Pace(requests_per_minute)
        if before is not None:
            with before._lock:  # noqa: SLF001  # our own class
                self._pace.inherit(before._pace)  # noqa: SLF001  # as above
        self._monotonic = monotonic
        self._sleep = sleep
        self._stopping = stopping
        self._processes = processes
        self._polls_waiting = 0

    @property
    def period(self) -> float:
        """Return the seconds in which the whole budget can be used once."""
        return self._pace.period

    def add_requests(self, request_ages: Iterable[float]) -> None:
        """Record requests that another process sent. `request_ages`: the seconds since each of them."""
        with self._lock:
            now = self._monotonic()
            self._pace.add_requests([now - age for age in request_ages], now)

    def request_ages(self) -> list[float]:
        """Return the seconds since each request that still uses the budget."""
        with self._lock:
            now = self._monotonic()
            return [now - time for time in self._pace.recent(now)]

    def acquire(self, deadline: float, waited: Callable[[float], None] | None = None) -> float:
        """Wait until a request may be sent, and take it from the budget. Return the seconds waited.

        Args:
            deadline: Latest time to send it, by the monotonic clock.
            waited: Called with the seconds of each part of the wait.

        Raises:
            RateLimitedError: The request could not be sent by the deadline.
            Stopped: The process is shutting down, or polls must stop sending requests.
        """
        page_request = _for_page.get()
        if not page_request and self._stopping():
            raise Stopped
        started = last = self._monotonic()
        waiting = False
        try:
            while (pause := self._try(deadline, page_request=page_request)) > 0:
                if not page_request and not waiting:
                    waiting = True
                    self._count_waiting_polls(1)
                if self._sleep(min(pause, MAX_SLEEP)):
                    raise Stopped
                before, last = last, self._monotonic()
                if waited is not None:
                    waited(last - before)
        finally:
            if waiting:
                self._count_waiting_polls(-1)
        return last - started

    def _count_waiting_polls(self, change: int) -> None:
        with self._lock:
            self._polls_waiting += change

    def wait(self) -> float:
        """Return the seconds until the next request may be sent, as of now."""
        with self._lock:
            now = self._monotonic()
            return self._pace.earliest(now) - now

    def block(self, seconds: float) -> None:
        """Block all requests for this many seconds, because the server asks for it."""
        if math.isfinite(seconds):
            with self._lock:
                self._pace.block(self._monotonic(), seconds)

    def spread(self, limit: float | None, remaining: float, reset_seconds: float) -> None:
        """Spread the remaining requests until the server's reset. If the limit is unknown, `remaining` replaces it."""
        limit = remaining if limit is None else limit
        if all(math.isfinite(number) and number >= 0 for number in (limit, remaining, reset_seconds)):
            with self._lock:
                self._pace.space(self._monotonic(), limit, remaining, reset_seconds)

    def succeeded(self, sent: float) -> None:
        """End the block if the request that has succeeded was sent after it began. `sent`: by the monotonic clock."""
        with self._lock:
            self._pace.succeeded(sent)

    def _try(self, deadline: float, *, page_request: bool) -> float:
        """Take a request and return 0, or return the seconds to wait before the next try."""
        # A waiting thread does not reserve a time. If it woke late, it could send its request right before another one,
        # or during a block that began in the meantime.
        with self._lock:
            now = self._monotonic()
            if page_request and self._polls_waiting:
                raise RateLimitedError("no request is sent for a page now: a poll waits for the request budget")
            free = self._pace.earliest(now)
            if page_request:
                free = self._pace.earliest_for_page(now, self._processes())
            if free <= now:
                self._pace.take(now, page_request=page_request)
                return 0.0
            if free > deadline:
                raise RateLimitedError(f"no request may be sent for {free - now:.0f} s: {self._reason(now)}")
            return free - now

    def _reason(self, now: float) -> str:
        if self._pace.earliest(now) <= now:
            return "pages have used their share of the request budget"
        return "the budget is used up"
