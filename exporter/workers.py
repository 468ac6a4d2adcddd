"""A few threads for answers that take their time, so that the event loop, and with it `/metrics`, never waits."""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from exporter.reports import BusyError

Answer = TypeVar("Answer")

THREADS = 4
WAITING = 32
"""Answers that may wait for a thread; one more is refused."""


class Workers:
    """For one event loop."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self._threads = threads
        self._most = threads + waiting
        self._under_way = 0
        self._limiter: CapacityLimiter | None = None

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """What the work gives, done on one of the threads. Raises BusyError if too much waits already."""
        if self._under_way >= self._most:
            raise BusyError("too many pages are asked for at once; try again in a moment")
        if self._limiter is None:  # it belongs to the event loop that runs now
            self._limiter = CapacityLimiter(self._threads)
        self._under_way += 1
        try:
            return await to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._under_way -= 1
