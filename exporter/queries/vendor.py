"""Sends queries to vendors' APIs while a person waits: few at a time, and with short timeouts."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from exporter.client.budget import Stopped, for_a_person
from exporter.errors import NotFoundError, RateLimitedError, SourceError
from exporter.model import Run, Step
from exporter.queries.errors import QueryError
from exporter.sources.source import Source, StepLog

BUDGET_WAIT = 3.0
"""Maximum seconds that a request may wait for the source's budget."""

STEPS_SECONDS, LOG_SECONDS = 4.0, 15.0
"""Maximum seconds to wait for steps, and for output. The first is short, because a page is useful without steps."""

# Few threads, so that a person who reloads a page often cannot use up the budget that polls need.
THREADS = 3
MAX_STEPS, MAX_LOGS = 6, 2
"""Maximum number of queries in progress."""

CACHE_SECONDS, ACTIVE_CACHE_SECONDS = 60.0, 10.0
"""Seconds for which the steps of completed and of active runs are cached."""

MAX_CACHED = 200
"""Maximum number of runs whose steps are cached. Output is never cached."""

Response = TypeVar("Response")
Key = tuple[str, str]
"""Name of a source, and ID of a run."""


class VendorQueries:
    """Sends queries to vendors' APIs. Thread-safe. `waiting`: returns the context of a wait for a response."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        steps_seconds: float = STEPS_SECONDS,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._monotonic, self._waiting = monotonic, waiting
        self._steps_seconds = steps_seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vendor")
        self._lock = threading.RLock()
        self._running: dict[Key, Future[Sequence[Step]]] = {}
        self._logs: set[Future[StepLog]] = set()
        self._cached: dict[Key, tuple[float, Sequence[Step]]] = {}

    def steps(self, name: str, source: Source, run: Run) -> Sequence[Step]:
        """Return the steps of a run. Simultaneous calls share one request. Raises QueryError."""
        key = (name, run.run_id)
        with self._lock:
            until, steps = self._cached.get(key, (float("-inf"), ()))
            if self._monotonic() < until:
                return steps
            future = self._running.get(key)
            if future is None:
                _check_limit(len(self._running), MAX_STEPS)
                future = self._running[key] = self._threads.submit(_query, source.steps, run)
                # If the query has ended already, the callback runs in this thread, so the lock must be reentrant.
                future.add_done_callback(lambda done: self._cache_result(key, run, done))
        with self._waiting():
            return _result(future, self._steps_seconds)

    def _cache_result(self, key: Key, run: Run, future: Future[Sequence[Step]]) -> None:
        with self._lock:
            self._running.pop(key, None)
            if not future.cancelled() and future.exception() is None:
                seconds = CACHE_SECONDS if run.result is not None else ACTIVE_CACHE_SECONDS
                self._cached.pop(key, None)
                self._cached[key] = (self._monotonic() + seconds, future.result())
                while len(self._cached) > MAX_CACHED:
                    del self._cached[next(iter(self._cached))]

    def log(self, source: Source, run: Run, step: str) -> StepLog:
        """Return the output of a step. Raises QueryError."""
        with self._lock:
            _check_limit(len(self._logs), MAX_LOGS)
            future = self._threads.submit(_query, source.log, run, step)
            self._logs.add(future)
            future.add_done_callback(self._logs.discard)
        with self._waiting():
            return _result(future, LOG_SECONDS)

    def close(self) -> bool:
        """Start no more queries. Return whether all have ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            return not (self._running or self._logs)


def _check_limit(running: int, limit: int) -> None:
    if running >= limit:
        raise QueryError(503, "too many requests to the vendors' APIs at once")


def _query(method: Callable[..., Response], *arguments: object) -> Response:
    # These requests get only a part of the source's budget, so that pages never delay a poll.
    with for_a_person():
        return method(*arguments, patience=BUDGET_WAIT)


def _result(future: Future[Response], seconds: float) -> Response:
    try:
        return future.result(seconds)
    except TimeoutError:
        raise QueryError(502, f"the API did not respond within {seconds:g} s") from None
    except (Stopped, CancelledError):
        raise QueryError(503, "the exporter is stopping") from None
    except NotFoundError as error:
        raise QueryError(404, str(error)) from None
    except RateLimitedError as error:
        raise QueryError(503, str(error)) from None
    except SourceError as error:
        raise QueryError(502, str(error)) from None
