"""The result of a poll, and the reason and text of its error."""

import msgspec

from exporter.errors import JobrunError
from exporter.ledger.batch_writer import BatchStats
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import PollReport


class PollResult(PollReport, kw_only=True):
    """The report of a poll, and data that only the poll needs.

    Attributes:
        started: Start of the poll, by the API's clock.
        skew: Seconds by which the API's clock is assumed to be ahead of the local one.
        load: How often the source's records had been loaded before the poll started.
        batches: Number of committed batches.
        steps: Number of runs whose steps were requested.
        stats: Statistics of the committed batches.
    """

    started: float
    skew: float
    load: int | None = None
    batches: int = 0
    steps: int = 0
    stats: BatchStats = msgspec.field(default_factory=BatchStats)

    def context(self, now: float) -> PollContext:
        """Return the context of a commit at this time."""
        return PollContext(now=now, started=self.started, behind=max(0.0, -self.skew), load=self.load)


def describe(error: Exception) -> tuple[str, str]:
    """Return the `reason` label of an error, and a text without customer data."""
    return (error.reason, str(error)) if isinstance(error, JobrunError) else ("internal", type(error).__name__)
