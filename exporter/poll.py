"""One poll of one source, from its windows to its steps, and what is told of it.

Sources raise; this is the place that catches, counts and tells.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from exporter.budget import Stopped
from exporter.entries import Entered, Moment
from exporter.errors import AuthError, JobrunError, NotFoundError, RateLimitedError, SourceError, StateError
from exporter.ledger import Ledger
from exporter.meters import SourceMeter
from exporter.model import Disposition
from exporter.rules import SourceRules
from exporter.schema import StoredRun
from exporter.sources.source import Source
from exporter.view import LedgerView

STEP_BATCH = 100
"""Runs whose steps are fetched before the queue is looked at again."""

STEP_FAULTS = 3
"""Failed step fetches in a row after which the rest waits for the next poll."""

PART_OF_INTERVAL = 0.8
"""Lesser work of a poll stops when this part of the interval is used up, so that the next poll is not late."""


class ApiClock(Protocol):
    """Tells the present by an API's clock. `skew`: how far it is ahead of ours, in seconds."""

    skew: float

    def now(self) -> float:
        """The present, corrected."""


class Pages(Protocol):
    """Where committed things are served."""

    def publish(self) -> None:
        """Serves all that is committed."""

    def soon(self) -> None:
        """Likewise, unless that was done a moment ago."""


class Told(msgspec.Struct, kw_only=True):
    """What one poll did, for its log line."""

    outcome: str = "success"
    reason: str = ""
    fault: str = ""
    readings: int = 0
    steps: int = 0
    entered: Entered = msgspec.field(default_factory=Entered)


class Poller:
    """Polls one source.

    Args:
        rules: The source's rules.
        source: The vendor's side.
        ledger: Where readings are committed.
        meter: Where the poll is measured.
        api_clock: The present by the API's clock.
        monotonic: A clock that never jumps, in seconds.
        sweep_interval: Seconds between sweeps; None for no sweeps.
        pages: Where committed things are served.
    """

    def __init__(  # noqa: PLR0913  # everything outside is an argument
        self,
        rules: SourceRules,
        source: Source,
        ledger: Ledger,
        meter: SourceMeter,
        *,
        api_clock: ApiClock,
        monotonic: Callable[[], float],
        sweep_interval: float | None,
        pages: Pages,
    ) -> None:
        self._rules = rules
        self._source = source
        self._ledger = ledger
        self._meter = meter
        self._clock = api_clock
        self._monotonic = monotonic
        self._sweep_interval = sweep_interval
        self._pages = pages
        self._log = structlog.get_logger().bind(source=rules.name)
        self.failures = 0
        self.polled = False
        self.last_fault = ""
        self.last_reason = ""

    def round_seconds(self) -> float:
        """Seconds in which the source reads everything once; 0 where every poll does."""
        return self._source.round_seconds()

    def poll(self) -> str:
        """Polls once; returns the outcome: `success`, `partial` or `error`. Raises Stopped at shutdown only."""
        begun, started, told = self._monotonic(), self._clock.now(), Told()
        try:
            self._read(begun, started, told)
            self._fetch_steps(begun, started, told)
        except Stopped:
            raise
        except JobrunError as error:
            told.outcome, told.reason, told.fault = "error", error.reason, str(error)
        except Exception as error:  # noqa: BLE001  # the last resort, as follows
            # A fault of ours in one source must not end the daemon, nor pass for an empty answer.
            told.outcome, told.reason, told.fault = "error", "schema", type(error).__name__
            self._log.exception("poll.fault")
        self._tell(told, self._monotonic() - begun)
        return told.outcome

    def _read(self, begun: float, started: float, told: Told) -> None:
        name = self._rules.name
        self._ledger.begin(name, started)
        sweep = self._sweep_due(started)
        view = LedgerView(
            self._ledger,
            name,
            clock=self._clock.now,
            sweep_due=sweep,
            wants=self._rules.wants,
            out_of_time=lambda: self._monotonic() - begun > PART_OF_INTERVAL * self._rules.poll_interval,
        )
        first_skew = self._clock.skew
        for reading in self._source.readings(view):
            if self._clock.skew != first_skew:
                # The first answer has told that our clock is wrong, and with it the instant of the baseline.
                self._ledger.shift_baseline(name, self._clock.skew - first_skew, self._clock.now())
                started += self._clock.skew - first_skew
                first_skew = self._clock.skew
            self._enter(told, self._ledger.commit(name, reading, self._moment(started)))
            self._source.committed(reading)
            told.readings += 1
            self._pages.soon()
        self._enter(told, self._ledger.give_up(name, self._moment(started)))
        self._ledger.finish(name, self._moment(started), swept=sweep)
        if any(not scope.readable for scope in self._ledger.source(name).scopes.values()):
            told.outcome = "partial"
        self._pages.soon()

    def _sweep_due(self, now: float) -> bool:
        last = self._ledger.source(self._rules.name).last_sweep
        return self._sweep_interval is not None and last is not None and abs(now - last) >= self._sweep_interval

    def _moment(self, started: float) -> Moment:
        return Moment(now=self._clock.now(), started=started)

    def _enter(self, told: Told, entered: Entered) -> None:
        told.entered.dispositions.update(entered.dispositions)
        told.entered.results.update(entered.results)
        for disposition, count in entered.dispositions.items():
            if count:
                self._meter.fetched(disposition, count)
        for delay in entered.delays:
            self._meter.observation_delay(delay)

    def _fetch_steps(self, begun: float, started: float, told: Told) -> None:
        """Fetches the steps of runs that are counted, for as long as the poll's time allows, but always some."""
        faults = 0
        while rows := self._ledger.pending_steps(self._rules.name, self._clock.now(), STEP_BATCH):
            for row in rows:
                late = self._monotonic() - begun > PART_OF_INTERVAL * self._rules.poll_interval
                if faults >= STEP_FAULTS or (late and told.steps):
                    return
                faults = 0 if self._fetch(row, self._moment(started)) else faults + 1
                told.steps += 1
            self._pages.soon()

    def _fetch(self, row: StoredRun, moment: Moment) -> bool:
        """Fetches the steps of one run; False if that failed and is to be tried again."""
        name = self._rules.name
        try:
            steps = self._source.steps(row.known.run)
        except NotFoundError:
            self._ledger.steps_missing(name, row, moment)
            return True
        except (AuthError, RateLimitedError):
            self._ledger.steps_failed(name, row, moment)
            raise
        except SourceError as error:
            self._meter.poll_error(error.reason)
            self._log.warning("steps.failed", reason=error.reason, fault=str(error))
            self._ledger.steps_failed(name, row, moment)
            return False
        self._ledger.commit_steps(name, row, steps, moment)
        return True

    def _tell(self, told: Told, seconds: float) -> None:
        name, now = self._rules.name, self._clock.now()
        failed = told.outcome == "error"
        self.failures = self.failures + 1 if failed else 0
        self.polled, self.last_fault, self.last_reason = True, told.fault, told.reason
        self._meter.polled(told.outcome, now, seconds)
        self._meter.up(not failed)
        if failed:
            self._meter.poll_error(told.reason)
        else:
            self._meter.last_success(now)
        state = self._ledger.source(name)
        readable = sum(scope.readable for scope in state.scopes.values())
        self._meter.scopes(readable, len(state.scopes) - readable)
        self._meter.watermark(state.watermark())
        self._meter.jobs(sum(1 for job in self._ledger.jobs_of(name) if not job.gone))
        self._meter.tracked_runs(len(self._ledger.open_runs(name)))
        if told.reason != StateError.reason:
            self._meter.step_fetches_pending(self._ledger.count_pending_steps(name))
        log = self._log.warning if failed else self._log.info
        counts = {str(key): told.entered.dispositions[key] for key in Disposition if told.entered.dispositions[key]}
        fault = {"reason": told.reason, "fault": told.fault} if failed else {}
        log(
            "poll",
            outcome=told.outcome,
            seconds=round(seconds, 3),
            readings=told.readings,
            endings=told.entered.results.total(),
            steps=told.steps,
            open=len(self._ledger.open_runs(name)),
            **counts,
            **fault,
        )
        self._pages.publish()
