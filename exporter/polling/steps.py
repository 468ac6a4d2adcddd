"""Fetches the steps of completed runs at the end of a poll."""

from collections.abc import Callable
from typing import Protocol

import structlog

from exporter.client.budget import Stopped
from exporter.counting.rules import SourceRules
from exporter.errors import AuthError, NotFoundError, RateLimitedError, SourceError, StateError
from exporter.ledger.ledger import Ledger
from exporter.polling.result import PollResult, describe
from exporter.sources.source import Source
from exporter.state.schema import StoredRun

STEP_BATCH = 100
"""Number of runs whose steps are fetched before the queue is read again."""

MAX_STEP_ERRORS = 3
"""Consecutive failed fetches after which all other steps wait for the next poll; 1 if the poll itself failed."""

POLL_TIME_FRACTION = 0.8
"""Fraction of the interval after which a poll stops optional work, so that the next poll is not late."""


class ApiClock(Protocol):
    """The clock of an API."""

    @property
    def skew(self) -> float:
        """Return the seconds by which it is ahead of the local clock."""

    def now(self) -> float:
        """Return its current time."""


class Pages(Protocol):
    """Publishes committed records."""

    def publish(self) -> None:
        """Publish all committed records."""

    def publish_throttled(self) -> None:
        """Publish all committed records, unless they were published a moment ago."""


class StepFetcher:
    """Fetches steps within the time of a poll. The arguments are those of `Poller`."""

    def __init__(  # noqa: PLR0913  # everything outside is an argument
        self,
        rules: SourceRules,
        source: Source,
        ledger: Ledger,
        *,
        api_clock: ApiClock,
        monotonic: Callable[[], float],
        pages: Pages,
    ) -> None:
        self._rules = rules
        self._source = source
        self._ledger = ledger
        self._clock = api_clock
        self._monotonic = monotonic
        self._pages = pages
        self._log = structlog.get_logger().bind(source=rules.name)

    def fetch(self, begun: float, result: PollResult) -> None:
        """Fetch the steps of counted runs for as long as the poll's time allows."""
        # A poll that has used up its time spends the same time again on steps. Otherwise the queue would grow while
        # polls are late.
        left = 1 if result.outcome == "error" else MAX_STEP_ERRORS
        errors, until = 0, begun + max(POLL_TIME_FRACTION * self._rules.poll_interval, 2 * result.read_for)
        while rows := self._ledger.pending_steps(self._rules.name, self._clock.now(), STEP_BATCH):
            for row in rows:
                if errors >= left or (self._monotonic() > until and result.steps):
                    return
                errors = 0 if self._fetch_one(row, result) else errors + 1
                result.steps += 1
            self._pages.publish_throttled()

    def _fetch_one(self, row: StoredRun, result: PollResult) -> bool:
        """Fetch the steps of one run. Return False if the request failed and must be repeated."""
        name, poll_context = self._rules.name, result.context(self._clock.now())
        try:
            self._ledger.commit_steps(name, row, self._source.steps(row.run), poll_context)
        except NotFoundError:
            self._ledger.steps_missing(name, row, poll_context)
        except (AuthError, RateLimitedError):
            self._ledger.steps_failed(name, row, poll_context)
            raise
        except (Stopped, StateError):
            raise
        except Exception as caught:  # noqa: BLE001  # malformed steps of one run must not delay the steps of others
            reason, error = describe(caught)
            result.reasons.append(reason)
            traceback = {} if isinstance(caught, SourceError) else {"exc_info": caught}
            self._log.warning("fetching steps failed", reason=reason, error=error, **traceback)
            self._ledger.steps_failed(name, row, poll_context)
            return False
        return True
