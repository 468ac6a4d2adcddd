"""One poll of one source, from its windows to its steps, and what is told of it.

Sources raise; this is the place that catches, counts and tells.
"""

import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from exporter.client.budget import Stopped
from exporter.counting.rules import SourceRules
from exporter.errors import (
    AuthError,
    JobrunError,
    NotFoundError,
    PartialError,
    RateLimitedError,
    SourceError,
    StateError,
)
from exporter.ledger.entries import Entered, Moment
from exporter.ledger.ledger import Ledger
from exporter.metrics.meters import SourceMeter
from exporter.model import Disposition
from exporter.polling.view import LedgerView
from exporter.sources.source import Source
from exporter.state.schema import StoredRun

STEP_BATCH = 100
"""Runs whose steps are fetched before the queue is looked at again."""

STEP_FAULTS = 3
"""Failed step fetches in a row after which the rest waits for the next poll."""

MISTAKEN = 5.0
"""Seconds by which an API's clock must prove ours wrong for what was asked by it to be asked anew."""

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
    """What one poll did, for its log line.

    `started`: when, by the API's clock; `skew`: by how much that was held to be ahead of ours, in seconds.
    """

    started: float
    skew: float
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
        self.last_outcome = ""
        self.last_fault = ""
        self.last_reason = ""

    def round_seconds(self) -> float:
        """Seconds in which the source reads everything once; 0 where every poll does."""
        return self._source.round_seconds()

    def poll(self, *, steps: bool = True) -> str:
        """Polls once, with or without the steps of ended runs; returns the outcome: `success`, `partial` or `error`.

        Raises Stopped at shutdown only.
        """
        begun, told = self._monotonic(), Told(started=self._clock.now(), skew=self._clock.skew)
        try:
            self._read(begun, told)
            self._show_all_is_read()
            if steps:
                self._fetch_steps(begun, told)
        except Stopped:
            raise
        except JobrunError as error:
            told.outcome, told.reason, told.fault = "error", error.reason, str(error)
        except Exception as error:  # noqa: BLE001  # the last resort, as follows
            # A fault of ours in one source must not end the daemon, nor pass for an empty answer.
            told.outcome, told.reason, told.fault = "error", "internal", type(error).__name__
            self._log.exception("poll.fault")
        with contextlib.suppress(StateError):
            self._heed_clock(told)
        self._tell(told, self._monotonic() - begun)
        return told.outcome

    def _read(self, begun: float, told: Told) -> None:
        name = self._rules.name
        self._ledger.begin(name, told.started)
        sweep = self._sweep_due(told.started)
        view = LedgerView(
            self._ledger,
            name,
            clock=self._clock.now,
            sweep_due=sweep,
            wants=self._rules.wants,
            out_of_time=lambda: self._monotonic() - begun > PART_OF_INTERVAL * self._rules.poll_interval,
        )
        if not self._commit_readings(view, told):
            # What was asked for by a wrong clock proves nothing; only now is it known how wrong.
            self._commit_readings(view, told, whatever_the_clock=True)
        self._enter(told, self._ledger.give_up(name, self._moment(told)))
        self._ledger.finish(name, self._moment(told), swept=sweep)
        if told.fault or any(not scope.readable for scope in self._ledger.source(name).scopes.values()):
            told.outcome = "partial"

    def _commit_readings(self, view: LedgerView, told: Told, *, whatever_the_clock: bool = False) -> bool:
        """Reads and commits; False as soon as an answer shows that our clock was wrong when it was asked for.

        Parts of the source that could not be read end nothing: everything else was read.
        """
        try:
            for reading in self._source.readings(view):
                if self._heed_clock(told) and not whatever_the_clock:
                    return False
                self._enter(told, self._ledger.commit(self._rules.name, reading, self._moment(told)))
                self._source.committed(reading)
                told.readings += 1
                self._pages.soon()
        except PartialError as error:
            told.reason, told.fault = error.reason, str(error)
        return True

    def _heed_clock(self, told: Told) -> bool:
        """Whether the API's clock is not what it was held for; then the instant of the baseline was wrong too."""
        change = self._clock.skew - told.skew
        if abs(change) < MISTAKEN:
            return False
        told.skew = self._clock.skew
        self._ledger.shift_baseline(self._rules.name, change, self._clock.now())
        told.started += change
        return True

    def _sweep_due(self, now: float) -> bool:
        last = self._ledger.source(self._rules.name).last_sweep
        return self._sweep_interval is not None and last is not None and abs(now - last) >= self._sweep_interval

    def _moment(self, told: Told) -> Moment:
        return Moment(now=self._clock.now(), started=told.started)

    def _enter(self, told: Told, entered: Entered) -> None:
        told.entered.dispositions.update(entered.dispositions)
        told.entered.results.update(entered.results)
        for disposition, count in entered.dispositions.items():
            if count:
                self._meter.fetched(disposition, count)
        self._meter.observation_delays(entered.delays)

    def _fetch_steps(self, begun: float, told: Told) -> None:
        """Fetches the steps of runs that are counted, for as long as the poll's time allows, but always some."""
        faults = 0
        while rows := self._ledger.pending_steps(self._rules.name, self._clock.now(), STEP_BATCH):
            for row in rows:
                late = self._monotonic() - begun > PART_OF_INTERVAL * self._rules.poll_interval
                if faults >= STEP_FAULTS or (late and told.steps):
                    return
                faults = 0 if self._fetch(row, self._moment(told)) else faults + 1
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

    def _show_all_is_read(self) -> None:
        """The steps, which may take long, keep nobody waiting."""
        publish = self._pages.soon if self.polled else self._pages.publish
        self._show(up=True)
        publish()
        self.polled = True

    def _show(self, *, up: bool) -> None:
        """How the source stands."""
        name = self._rules.name
        state = self._ledger.source(name)
        readable = sum(scope.readable for scope in state.scopes.values())
        self._meter.up(up and (readable > 0 or not state.scopes))
        self._meter.scopes(readable, len(state.scopes) - readable)
        self._meter.watermark(state.watermark())
        self._meter.jobs(sum(map(self._rules.shows, self._ledger.jobs_of(name))))
        self._meter.tracked_runs(len(self._ledger.open_runs(name)))

    def _tell(self, told: Told, seconds: float) -> None:
        name, now = self._rules.name, self._clock.now()
        failed = told.outcome == "error"
        self.failures = self.failures + 1 if failed else 0
        self.last_outcome, self.last_fault, self.last_reason = told.outcome, told.fault, told.reason
        self._meter.polled(told.outcome, now, seconds)
        if told.reason:
            self._meter.poll_error(told.reason)
        if not failed:
            self._meter.last_success(now)
        self._show(up=not failed)
        with contextlib.suppress(StateError):
            self._meter.step_fetches_pending(self._ledger.count_pending_steps(name))
        log = self._log.warning if told.fault else self._log.info
        counts = {str(key): told.entered.dispositions[key] for key in Disposition if told.entered.dispositions[key]}
        fault = {"reason": told.reason, "fault": told.fault} if told.fault else {}
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
        self.polled = True
