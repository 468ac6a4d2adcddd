"""Questions of people that only a vendor's API can answer: a few at a time, for a moment, and with little patience.

What was answered is kept in memory for a minute, steps only; output is kept nowhere.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from exporter.client.budget import Stopped, for_a_person
from exporter.errors import NotFoundError, RateLimitedError, SourceError
from exporter.model import Run, Step
from exporter.reports.errors import BusyError, UnknownError, UpstreamError
from exporter.sources.source import Source, StepLog

PATIENCE = 3.0
"""Seconds that a request of ours may wait for the budget."""

STEPS_SECONDS, LOG_SECONDS = 4.0, 15.0
"""How long a person waits for steps, without which the page is of use too, and for output."""

THREADS = 3
MOST_STEPS, MOST_LOGS = 6, 2
"""Questions under way."""

KEPT, KEPT_OPEN = 60.0, 10.0
"""Seconds for which steps are remembered, those of a run that has not ended too."""

REMEMBERED = 200
"""Runs of which the steps are remembered."""

Said = TypeVar("Said")
Key = tuple[str, str]


class VendorQueries:
    """Thread-safe.

    Args:
        monotonic: A clock that never jumps, in seconds.
        steps_seconds: How long a person waits for steps.
        log_seconds: How long for output.
        waiting: Entered while an answer is waited for.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        steps_seconds: float = STEPS_SECONDS,
        log_seconds: float = LOG_SECONDS,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._monotonic = monotonic
        self._steps_seconds, self._log_seconds = steps_seconds, log_seconds
        self._waiting = waiting
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ask")
        self._lock = threading.RLock()
        self._under_way: dict[Key, Future[Sequence[Step]]] = {}
        self._logs: set[Future[StepLog]] = set()
        self._known: dict[Key, tuple[float, Sequence[Step]]] = {}

    def steps(self, name: str, source: Source, run: Run) -> Sequence[Step]:
        """The steps of a run; who asks while another does waits for the same answer. Raises ReportError."""
        key = (name, run.run_id)
        with self._lock:
            until, steps = self._known.get(key, (float("-inf"), ()))
            if self._monotonic() < until:
                return steps
            future = self._under_way.get(key)
            if future is None:
                if len(self._under_way) >= MOST_STEPS:
                    raise BusyError("too much is being asked of the APIs")
                future = self._under_way[key] = self._threads.submit(_as_a_person, source.steps, run)
                # called at once, in this thread, if it is done already
                future.add_done_callback(lambda done: self._answered(key, run, done))
        with self._waiting():
            return _result(future, self._steps_seconds)

    def _answered(self, key: Key, run: Run, future: Future[Sequence[Step]]) -> None:
        with self._lock:
            self._under_way.pop(key, None)
            if not future.cancelled() and future.exception() is None:
                kept = KEPT if run.result is not None else KEPT_OPEN
                self._known.pop(key, None)
                self._known[key] = (self._monotonic() + kept, future.result())
                while len(self._known) > REMEMBERED:
                    del self._known[next(iter(self._known))]

    def log(self, source: Source, run: Run, step: str) -> StepLog:
        """Output of a step. Raises ReportError."""
        with self._lock:
            if len(self._logs) >= MOST_LOGS:
                raise BusyError("too much is being asked of the APIs")
            future = self._threads.submit(_as_a_person, source.log, run, step)
            self._logs.add(future)
            future.add_done_callback(self._told)
        with self._waiting():
            return _result(future, self._log_seconds)

    def _told(self, future: Future[StepLog]) -> None:
        with self._lock:
            self._logs.discard(future)

    def close(self) -> bool:
        """Asks nothing more; False if a question is still under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            return not (self._under_way or self._logs)


def _as_a_person(ask: Callable[..., Said], *about: object) -> Said:
    """Ask a vendor's API within the part of its budget that people have."""
    with for_a_person():
        return ask(*about, patience=PATIENCE)


def _result(future: Future[Said], seconds: float) -> Said:
    """What a vendor's API said, or why it did not."""
    try:
        return future.result(seconds)
    except TimeoutError:
        raise UpstreamError(f"no answer of the API within {seconds:g} s") from None
    except (Stopped, CancelledError):
        raise BusyError("the exporter is stopping") from None
    except NotFoundError as error:
        raise UnknownError(str(error)) from None
    except RateLimitedError as error:
        raise BusyError(str(error)) from None
    except SourceError as error:
        raise UpstreamError(str(error)) from None
