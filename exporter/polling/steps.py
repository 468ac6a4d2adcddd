"""Fetches the steps of completed runs at the end of a poll."""

from collections.abc import Callable
from dataclasses import dataclass
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
"""Consecutive failed requests after which all other steps wait for the next poll; 1 if the poll itself failed."""

POLL_TIME_FRACTION = 0.8
"""Fraction of the interval after which a poll stops optional work, so that the next poll is not late."""


class Pages(Protocol):
    """Publishes committed records."""

    def publish(self) -> None:
        """Publish all committed records."""

    def publish_throttled(self) -> None:
        """Publish all committed records, unless they were published a moment ago."""


@dataclass(frozen=True, kw_only=True)
class StepFetcher:
    """Fetches steps within the time of a poll. `now` returns the time of the API's clock; for the rest see `Poller`."""

    rules: SourceRules
    source: Source
    ledger: Ledger
    now: Callable[[], float]
    monotonic: Callable[[], float]
    pages: Pages

    def fetch(self, begun: float, result: PollResult) -> None:
        """Fetch the steps of counted runs for as long as the poll's time allows. `begun`: when the poll started."""
        # A poll that has used up its time still spends as much time on steps as on reading. Otherwise late polls would
        # never fetch any, and more and more runs would wait.
        max_errors = 1 if result.outcome == "error" else MAX_STEP_ERRORS
        errors, until = 0, begun + max(POLL_TIME_FRACTION * self.rules.poll_interval, 2 * result.read_for)
        while rows := self.ledger.pending_steps(self.rules.name, self.now(), STEP_BATCH):
            for row in rows:
                if errors >= max_errors or (self.monotonic() > until and result.steps):
                    return
                errors = 0 if self._fetch_one(row, result) else errors + 1
                result.steps += 1
            self.pages.publish_throttled()

    def _fetch_one(self, row: StoredRun, result: PollResult) -> bool:
        """Fetch the steps of one run. Return False if the request failed and must be repeated."""
        name, poll_context = self.rules.name, result.context(self.now())
        try:
            self.ledger.commit_steps(name, row, self.source.steps(row.run), poll_context)
        except NotFoundError:
            self.ledger.steps_missing(name, row, poll_context)
        except (AuthError, RateLimitedError):
            self.ledger.steps_failed(name, row, poll_context)
            raise
        except (Stopped, StateError):
            raise
        except Exception as caught:  # noqa: BLE001  # malformed steps of one run must not delay the steps of others
            reason, error = describe(caught)
            result.reasons.append(reason)
            traceback = {} if isinstance(caught, SourceError) else {"exc_info": caught}
            log = structlog.get_logger().bind(source=name)
            log.warning("fetching steps failed", reason=reason, error=error, **traceback)
            self.ledger.steps_failed(name, row, poll_context)
            return False
        return True
