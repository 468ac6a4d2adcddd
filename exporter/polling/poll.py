"""Polls a source: commits its batches, fetches steps, and logs one line per poll.

Sources raise errors; this module catches, counts and logs them.
"""

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from exporter.client.budget import Stopped
from exporter.client.client import Client
from exporter.counting.records import SourceStatus
from exporter.counting.rules import SourceRules
from exporter.errors import AuthError, BlockedError, JobrunError, NotFoundError, PartialError, StateError
from exporter.ledger.batch_writer import BatchStats
from exporter.ledger.ledger import EXPIRY_GRACE, Ledger
from exporter.metrics.requests import SourceRequests
from exporter.model import Disposition
from exporter.polling.result import PollResult, describe
from exporter.sources.source import Source
from exporter.sources.view import View
from exporter.state.schema import StoredRun

MIN_FIRST_POLL, FIRST_POLL_INTERVALS = 300.0, 10
"""How long readiness waits for the first poll: the longer of this many seconds and this many poll intervals."""

MAX_CLOCK_SKEW = 5.0
"""Change of the clock skew, in seconds, above which the batch is discarded and fetched again."""

MAX_BACKOFF, BACKOFF_INTERVALS = 300.0, 10
"""Longest wait while polls fail: the shorter of this many seconds and this many poll intervals."""


POLL_TIME_FRACTION = 0.8
"""Fraction of the interval after which a poll stops optional work, so that the next poll is not late."""

STEP_BATCH = 100
"""Number of runs whose steps are fetched before the queue is read again."""

MAX_STEP_ERRORS = 3
"""Consecutive failed requests after which the other steps wait for the next poll. If the poll failed, one is enough."""


class RecordPublisher(Protocol):
    """Publishes committed records."""

    def publish(self) -> None:
        """Publish all committed records."""

    def publish_throttled(self) -> None:
        """Publish all committed records, unless they were published a moment ago."""


def backoff(interval: float, failures: int) -> float:
    """Return the seconds to the next poll. They double with each consecutive failed poll, from the second on."""
    if failures <= 1:
        return interval
    longest = max(interval, min(BACKOFF_INTERVALS * interval, MAX_BACKOFF))
    return float(min(interval * 2 ** min(failures - 1, 16), longest))


class Poller:
    """Polls one source.

    Args:
        requests: Has the API's rate limit and the expiry of the credential.
        api_clock: The client, as the source of the API's time.
        sweep_interval: Seconds between sweeps; None for no sweeps.
        auth_backoff: Minimum seconds to the next poll after the API refused the credential.

    Attributes:
        polled: Whether the first poll has ended, or has taken so long that readiness no longer waits for it.
    """

    def __init__(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
        self,
        rules: SourceRules,
        source: Source,
        ledger: Ledger,
        requests: SourceRequests,
        *,
        api_clock: Client,
        monotonic: Callable[[], float],
        sweep_interval: float | None,
        publisher: RecordPublisher,
        auth_backoff: float = 0.0,
    ) -> None:
        self._rules = rules
        self._source = source
        self._ledger = ledger
        self._requests = requests
        self._clock = api_clock
        self._monotonic = monotonic
        self._sweep_interval = sweep_interval
        self._publisher = publisher
        self._auth_backoff = auth_backoff
        self._log = structlog.get_logger().bind(source=rules.name)
        self.polled = False
        self._poll_started: float | None = None
        self._logged_invalid = False
        self._skips = self._skips_of_current_poll = 0
        self._skips_lock = threading.Lock()
        self._clock_offset = api_clock.now() - monotonic()
        self._clock_jumped_at = -math.inf
        self._is_new_source = False

    @property
    def status(self) -> SourceStatus:
        """Return the source's status after its last poll, by this or an earlier process."""
        return self._ledger.source(self._rules.name).status

    @property
    def failures(self) -> int:
        """Return the number of consecutive failed polls."""
        return self.status.failures

    def wait(self) -> float:
        """Return the seconds to the next poll."""
        return self._wait_after(self.status.failures, self.status.reason)

    def _wait_after(self, failures: int, reason: str) -> float:
        least = self._auth_backoff if reason == AuthError.reason else 0.0
        return max(backoff(self._rules.poll_interval, failures), least)

    def poll(self, *, steps: bool = True) -> str:
        """Poll once, and fetch steps if `steps` is true. Return the outcome: `success`, `partial` or `error`.

        Raises Stopped only at shutdown.
        """
        begun = self._poll_started = self._monotonic()
        result = PollResult(started=self._clock.now(), skew=self._clock.skew)
        try:
            error = self._read(begun, result)
            if result.outcome != "error":
                # The committed batches are published now, because fetching steps may take long.
                self._ledger.record_up(self._rules.name, self._clock.now(), read=not result.scope_failed)
                (self._publisher.publish_throttled if self.polled else self._publisher.publish)()
                self.polled = True
            if steps and not isinstance(error, BlockedError):
                self._fetch_steps(begun, result)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001  # a bug must neither end the daemon nor look like a success
            self._record_error(result, error)
        with contextlib.suppress(StateError):
            self._adopt_clock_skew(result)
        self._finish(result, self._monotonic() - begun)
        return result.outcome

    def _record_error(self, result: PollResult, error: Exception) -> None:
        """Record an error with a text that contains no customer data."""
        if isinstance(error, PartialError):
            result.outcome, result.reason, result.error = "partial", error.reason, str(error)
            result.reasons += [each.reason for each in error.parts.values()]
            result.scope_failed = error.scope_failed
            return
        result.outcome = "error"
        result.reason, result.error = describe(error)
        result.reasons.append(result.reason)
        if not isinstance(error, JobrunError):
            self._log.error("poll failed", exc_info=error)

    def skip(self) -> None:
        """Count a poll that came due while this one runs."""
        with self._skips_lock:
            self._skips += 1
            self._skips_of_current_poll += 1
            first = self._skips_of_current_poll == 1
        if first:  # `_log_result` logs the total number
            self._log.warning("poll skipped: previous poll still running")

    def _take_skips(self) -> int:
        with self._skips_lock:
            skips, self._skips = self._skips, 0
            return skips

    def report_skipped_polls(self) -> None:
        """Commit the number of polls that came due while a long one still runs."""
        if skips := self._take_skips():
            self._ledger.skip_polls(self._rules.name, skips, self._clock.now())
            self._publisher.publish_throttled()

    def report_long_first_poll(self) -> None:
        """If the first poll takes too long, report the source as down, so that readiness does not wait for it."""
        limit = max(MIN_FIRST_POLL, FIRST_POLL_INTERVALS * self._rules.poll_interval)
        if self.polled or self._poll_started is None or self._monotonic() - self._poll_started <= limit:
            return
        self.polled = True
        self._log.warning("first poll still running", duration=round(self._monotonic() - self._poll_started))
        self._ledger.record_up(self._rules.name, self._clock.now(), read=False)
        self._publisher.publish()

    def _read(self, begun: float, result: PollResult) -> Exception | None:
        """Read everything, expire runs and complete the poll. Return the error of the source, if any."""
        name = self._rules.name
        if self._ledger.source(name).baseline is None:
            self._is_new_source, self._clock_offset = True, self._clock.now() - self._monotonic()
        self._follow_clock()
        result.load = self._ledger.start_poll(name, result.started)
        last = self._ledger.source(name).last_sweep
        interval = self._sweep_interval
        sweep = interval is not None and last is not None and abs(result.started - last) >= interval
        view = View(
            ledger=self._ledger,
            source=name,
            clock=self._clock.now,
            sweep_due=sweep,
            includes=self._rules.includes,
            out_of_time=lambda: self._monotonic() - begun > POLL_TIME_FRACTION * self._rules.poll_interval,
        )
        error = self._commit_all(view, result)
        with contextlib.suppress(StateError):
            self._follow_clock()
        # Runs that could not be read may still be active, and the times of a clock that has just jumped are wrong.
        is_unsure = error is not None or self._monotonic() - self._clock_jumped_at < EXPIRY_GRACE
        context = result.context(self._clock.now())
        self._add_stats(result, self._ledger.expire_open_runs(name, context, grace=EXPIRY_GRACE if is_unsure else 0.0))
        if error is None or isinstance(error, PartialError):
            self._ledger.complete_poll(name, result.context(self._clock.now()), swept=sweep)
        if error is not None:
            self._record_error(result, error)
        elif any(not scope.readable for scope in self._ledger.source(name).scopes.values()):
            result.outcome = "partial"
        return error

    def _commit_all(self, view: View, result: PollResult) -> Exception | None:
        """Read and commit all batches. Return the error at which reading ended, if any."""
        # The poll goes on after an error: old runs must expire, and requests for steps may succeed.
        try:
            if not self._commit_batches(view, result):
                # Only a response shows the skew, so windows that were computed with the old skew are read again.
                self._commit_batches(view, result, accept_skew=True)
        except (Stopped, StateError):
            raise
        except Exception as error:  # noqa: BLE001  # reported by `poll`
            return error
        return None

    def _commit_batches(self, view: View, result: PollResult, *, accept_skew: bool = False) -> bool:
        """Read and commit batches. Return False as soon as the clock skew changes, unless `accept_skew` is set."""
        for batch in self._source.fetch(view):
            if self._adopt_clock_skew(result) and not accept_skew:
                return False
            self._add_stats(result, self._ledger.commit(self._rules.name, batch, result.context(self._clock.now())))
            if batch.invalid and not self._logged_invalid:
                self._logged_invalid = True
                self._log.warning("rows without a readable ID are not counted", rows=batch.invalid)
            result.batches += 1
            self._publisher.publish_throttled()
        return True

    def _adopt_clock_skew(self, result: PollResult) -> bool:
        """Return whether a response has shown another clock skew than assumed. If so, use the new one from now on."""
        change = self._clock.skew - result.skew
        if abs(change) < MAX_CLOCK_SKEW:
            return False
        result.skew = self._clock.skew
        self._follow_clock()
        result.started += change
        return True

    def _follow_clock(self) -> None:
        """If the API's or the local clock has jumped, shift the baseline by the jump."""
        # With a wrong clock, the baseline is wrong. Active runs get a grace period, so that a jump expires none.
        offset = self._clock.now() - self._monotonic()
        change = offset - self._clock_offset
        if abs(change) >= MAX_CLOCK_SKEW:
            self._ledger.shift_baseline(self._rules.name, change, self._clock.now(), again=self._is_new_source)
            self._clock_offset, self._clock_jumped_at = offset, self._monotonic()

    def _add_stats(self, result: PollResult, stats: BatchStats) -> None:
        result.stats.dispositions.update(stats.dispositions)
        result.stats.results.update(stats.results)

    def _fetch_steps(self, begun: float, result: PollResult) -> None:
        """Fetch the steps of completed runs while the poll has time. `begun`: when the poll started."""
        # Even a slow poll spends as much time on steps as on reading. Otherwise slow polls would never fetch steps, and
        # more and more runs would wait.
        read_for = self._monotonic() - begun
        errors, until = 0, begun + max(POLL_TIME_FRACTION * self._rules.poll_interval, 2 * read_for)
        max_errors = 1 if result.outcome == "error" else MAX_STEP_ERRORS
        while rows := self._ledger.pending_steps(self._rules.name, self._clock.now(), STEP_BATCH):
            for row in rows:
                if errors >= max_errors or (self._monotonic() > until and result.steps):
                    return
                errors = 0 if self._fetch_steps_of(row, result) else errors + 1
                result.steps += 1
            self._publisher.publish_throttled()

    def _fetch_steps_of(self, row: StoredRun, result: PollResult) -> bool:
        """Fetch the steps of one run. Return False if the request failed and must be repeated."""
        name, context = self._rules.name, result.context(self._clock.now())
        try:
            self._ledger.commit_steps(name, row, self._source.steps(row.run), context)
        except NotFoundError:
            self._ledger.record_missing_steps(name, row, context)
        except (Stopped, StateError):
            raise
        except Exception as caught:  # malformed steps of one run must not delay others
            self._ledger.record_steps_error(name, row, context)
            if isinstance(caught, BlockedError):
                raise
            reason, error = describe(caught)
            result.reasons.append(reason)
            traceback = {} if isinstance(caught, JobrunError) else {"exc_info": caught}
            self._log.warning("fetching steps failed", reason=reason, error=error, **traceback)
            return False
        return True

    def _finish(self, result: PollResult, seconds: float) -> None:
        name = self._rules.name
        result.ended, result.duration, result.skipped = self._clock.now(), seconds, self._take_skips()
        result.rate_limit, result.credential_expiry = self._requests.rate_limit, self._requests.expiry
        result.interval = self._next_interval(result)
        try:
            self._ledger.finish_poll(name, result)
        except StateError as error:
            if result.outcome != "error":
                self._record_error(result, error)
                result.interval = self._next_interval(result)
            self._ledger.keep_poll(name, result)
        self._log_result(result)
        self._publisher.publish()
        self.polled = True

    def _next_interval(self, result: PollResult) -> float:
        failures = self.failures + 1 if result.outcome == "error" else 0
        return max(self._wait_after(failures, result.reason), self._source.seconds_per_round())

    def _log_result(self, result: PollResult) -> None:
        log = self._log.warning if result.error else self._log.info
        counts = {str(key): result.stats.dispositions[key] for key in Disposition if result.stats.dispositions[key]}
        optional = {"reason": result.reason, "error": result.error, "skipped": self._skips_of_current_poll}
        log(
            "poll finished",
            outcome=result.outcome,
            duration=round(result.duration, 3),
            batches=result.batches,
            completed=result.stats.results.total(),
            steps=result.steps,
            open=len(self._ledger.open_runs(self._rules.name)),
            **counts,
            **{name: value for name, value in optional.items() if value},
        )
        self._skips_of_current_poll = 0
