"""Sends queries to vendors' APIs while a person waits: few at a time, and with short timeouts."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from exporter.client.budget import Stopped, for_page
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
CachedSteps = tuple[float, Sequence[Step]]
"""Time until which the steps of a run are cached, and the steps."""


class VendorQueries:
    """Sends queries to vendors' APIs. Thread-safe. `waiting`: returns a context manager for each wait."""

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
        self._lock = threading.Lock()
        self._steps: dict[Key, Future[CachedSteps]] = {}
        self._logs: set[Future[StepLog]] = set()

    def steps(self, name: str, source: Source, run: Run) -> Sequence[Step]:
        """Return the steps of a run. Simultaneous calls share one request. Raises QueryError."""
        key = (name, run.run_id)
        with self._lock:
            future = self._steps.pop(key, None)
            if future is None or not self._is_usable(future):
                _check_limit(self._steps.values(), MAX_STEPS)
                future = self._threads.submit(self._query_steps, source, run)
            self._steps[key] = future
            if len(self._steps) > MAX_CACHED:
                del self._steps[next(iter(self._steps))]
        with self._waiting():
            return _result(future, self._steps_seconds)[1]

    def _is_usable(self, future: Future[CachedSteps]) -> bool:
        if not future.done():
            return True
        return not future.cancelled() and future.exception() is None and self._monotonic() < future.result()[0]

    def _query_steps(self, source: Source, run: Run) -> CachedSteps:
        steps = _query(source.steps, run)
        return self._monotonic() + (ACTIVE_CACHE_SECONDS if run.result is None else CACHE_SECONDS), steps

    def log(self, source: Source, run: Run, step: str) -> StepLog:
        """Return the output of a step. Raises QueryError."""
        with self._lock:
            _check_limit(self._logs, MAX_LOGS)
            future = self._threads.submit(_query, source.log, run, step)
            self._logs = {future, *(each for each in self._logs if not each.done())}
        with self._waiting():
            return _result(future, LOG_SECONDS)

    def close(self) -> bool:
        """Start no more queries. Return whether all have ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            queries: list[Future[Any]] = [*self._steps.values(), *self._logs]
        return all(each.done() for each in queries)


def _check_limit(futures: Iterable[Future[Any]], limit: int) -> None:
    if sum(not each.done() for each in futures) >= limit:
        raise QueryError(503, "too many requests to the vendors' APIs at once")


def _query(method: Callable[..., Response], *arguments: object) -> Response:
    # These requests get only a part of the source's budget, so that pages never delay a poll.
    with for_page():
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
