"""What a poll did, and how its errors are reported."""

import msgspec

from exporter.errors import JobrunError
from exporter.ledger.batch_writer import BatchStats
from exporter.ledger.poll_context import PollContext


class PollResult(msgspec.Struct, kw_only=True):
    """What one poll did, for its log line.

    `started`: start by the API's clock; `skew`: seconds by which that clock was assumed to be ahead; `reasons`: reasons
    of all errors, including those of single parts; `read_for`: seconds until everything was read.
    """

    started: float
    skew: float
    outcome: str = "success"
    reason: str = ""
    error: str = ""
    reasons: list[str] = msgspec.field(default_factory=list)
    batches: int = 0
    read_for: float = 0.0
    steps: int = 0
    entered: BatchStats = msgspec.field(default_factory=BatchStats)

    def context(self, now: float) -> PollContext:
        """Return the context of what is committed now."""
        return PollContext(now=now, started=self.started, behind=max(0.0, -self.skew))


def described(error: Exception) -> tuple[str, str]:
    """Return the reason under which an error is counted, and its text."""
    return (error.reason, str(error)) if isinstance(error, JobrunError) else ("internal", type(error).__name__)
