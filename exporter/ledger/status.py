"""Applies the report of a poll to the status and the counters of a source's record."""

from collections import Counter

import msgspec

from exporter.counting.records import RateLimit, SourceState, SourceStatus
from exporter.metrics.families import FAMILIES, MISSED_POLLS, POLL_ERRORS, POLLS, UNOBSERVED
from exporter.metrics.family import Level

NOT_ZERO_FIRST = tuple(
    each for each in FAMILIES if each.level is Level.SOURCE and each.samples is None and not each.zero_first
)
"""Counters and histograms of sources whose values are exposed at once."""

MAX_ERROR = 500
"""Maximum length of a stored error text."""


class PollReport(msgspec.Struct, kw_only=True):
    """What the ledger records about a poll.

    Attributes:
        ended: When the poll ended, by the API's clock.
        outcome: `success`, `partial` or `error`.
        error: Text of the error, without customer data.
        reasons: Reasons of all errors: several parts of a poll may fail.
        scope_failed: Whether a request for a readable scope failed.
        interval: Seconds to the next poll.
        skipped: Polls that came due while this one was running.
        rate_limit: The rate limit that the API last reported.
    """

    ended: float = 0.0
    duration: float = 0.0
    outcome: str = "success"
    reason: str = ""
    error: str = ""
    reasons: list[str] = []
    scope_failed: bool = False
    interval: float | None = None
    skipped: int = 0
    rate_limit: RateLimit = RateLimit()
    credential_expiry: float | None = None


def seed_source(source: SourceState) -> None:
    """Create, at 0, the series that a source has from the start."""
    for family in NOT_ZERO_FIRST:
        for label in family.seeds:
            source.count(family.name, label, amount=0)
        if family.buckets:
            source.distribution(family.name, bounds=family.buckets)


def expose_unobserved(source: SourceState) -> None:
    """Add the pending unobserved seconds of a source to their counter."""
    if source.pending_unobserved:
        source.count(UNOBSERVED, amount=source.pending_unobserved)
        source.pending_unobserved = 0.0


def is_readable(source: SourceState) -> bool:
    """Return whether a source has a readable scope, or no known scope."""
    return not source.scopes or any(scope.readable for scope in source.scopes.values())


class UnwrittenPolls(msgspec.Struct, frozen=True):
    """Polls of a source that no transaction has written yet.

    Attributes:
        status: Status of the source after the last of these polls.
        counts: Amounts to add to the source's counters, by family and label.
    """

    # Counts are served only once committed. Otherwise a crash before the commit would make a counter fall.
    status: SourceStatus = SourceStatus()
    counts: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)

    def after(self, report: PollReport, *, up: bool, pending_steps: int | None) -> "UnwrittenPolls":
        """Return these polls and one more. `up`: whether a scope is readable now."""
        before, read = self.status, report.outcome != "error"
        status = SourceStatus(
            up=up and read and not report.scope_failed,
            outcome=report.outcome,
            reason=report.reason,
            error=report.error[:MAX_ERROR],
            last_poll=report.ended,
            last_poll_duration=report.duration,
            # A partial poll has read something, too.
            last_success=report.ended if up and read else before.last_success,
            # A partial poll is not a failure, so it does not delay the next one.
            failures=0 if read else before.failures + 1,
            interval=report.interval,
            pending_steps=before.pending_steps if pending_steps is None else pending_steps,
            rate_limit=report.rate_limit,
            credential_expiry=report.credential_expiry,
            credential_since=(
                before.credential_since if before.credential_expiry == report.credential_expiry else report.ended
            ),
        )
        counts = Counter([(POLLS, report.outcome), *((POLL_ERRORS, reason) for reason in report.reasons)])
        return UnwrittenPolls(status, self.counts + counts).with_skipped(report.skipped)

    def with_up(self, *, up: bool) -> "UnwrittenPolls":
        """Return these polls with another value of `up`."""
        return UnwrittenPolls(msgspec.structs.replace(self.status, up=up), self.counts)

    def with_skipped(self, polls: int) -> "UnwrittenPolls":
        """Return these polls and more that came due while one was running."""
        skipped = Counter({(POLLS, "skipped"): polls, (MISSED_POLLS, ""): polls})
        return UnwrittenPolls(self.status, self.counts + skipped)

    def write_to(self, source: SourceState) -> None:
        """Add these polls to a source's record."""
        source.status = self.status
        for (family, label), amount in self.counts.items():
            source.count(family, label, amount=amount)
