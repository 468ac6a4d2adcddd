"""How a poll went, and what that changes in its source's record."""

from collections.abc import Sequence

import msgspec

from exporter.counting.records import RateLimit, SourceState, SourceStatus
from exporter.metrics.families import FAMILIES, MISSED_POLLS, POLL_ERRORS, POLLS, Level

AT_ONCE = tuple(
    each for each in FAMILIES if each.level is Level.SOURCE and each.samples is None and not each.zero_first
)
"""Families that sources record, and that are served at their value from the start."""

MAX_ERROR = 500
"""Characters of an error's text that are kept."""


class PollReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a poll went.

    Attributes:
        ended: When it ended, by the API's clock.
        duration: In seconds.
        outcome: `success`, `partial` or `error`.
        reason: Of its error, "" if there was none.
        error: The same in words that hold no data of others.
        reasons: Of all errors that it met.
        interval: Seconds to the next poll.
        skipped: Polls that came due while this one was running.
        rate_limit: As the API last reported it.
        credential_expiry: When the credential in use expires.
    """

    ended: float
    duration: float
    outcome: str
    reason: str = ""
    error: str = ""
    reasons: Sequence[str] = ()
    interval: float | None = None
    skipped: int = 0
    rate_limit: RateLimit = RateLimit()
    credential_expiry: float | None = None

    @property
    def failed(self) -> bool:
        """Return whether nothing came of the poll."""
        return self.outcome == "error"


def seed_source(source: SourceState) -> None:
    """Give a source the series that are known before anything happens."""
    for family in AT_ONCE:
        for label in family.seeds:
            source.count(family.name, label, amount=0)
        if family.buckets:
            source.distribution(family.name, bounds=family.buckets)


def is_up(source: SourceState, *, read: bool) -> bool:
    """Return whether a source is up: its poll read something, and at least one scope is readable."""
    return read and (not source.scopes or any(scope.readable for scope in source.scopes.values()))


def record_poll(source: SourceState, report: PollReport, pending_steps: int | None) -> None:
    """Change a source's record by a poll that has ended."""
    up, before = is_up(source, read=not report.failed), source.status
    source.count(POLLS, report.outcome)
    # Errors of single parts are counted one by one, so a poll can have several.
    for reason in report.reasons:
        source.count(POLL_ERRORS, reason)
    count_skipped(source, report.skipped)
    source.status = SourceStatus(
        up=up,
        outcome=report.outcome,
        reason=report.reason,
        error=report.error[:MAX_ERROR],
        last_poll=report.ended,
        last_poll_duration=report.duration,
        # Partial polls count: what could be read was read.
        last_success=report.ended if up else before.last_success,
        # A partial poll is no failure: it must not slow the next polls down.
        failures=before.failures + 1 if report.failed else 0,
        interval=report.interval,
        pending_steps=before.pending_steps if pending_steps is None else pending_steps,
        rate_limit=report.rate_limit,
        credential_expiry=report.credential_expiry,
        credential_since=before.credential_since
        if before.credential_expiry == report.credential_expiry
        else report.ended,
    )


def count_skipped(source: SourceState, polls: int) -> None:
    """Count polls that came due while one was running."""
    if polls:
        source.count(POLLS, "skipped", amount=polls)
        source.count(MISSED_POLLS, amount=polls)


def carry_over(memory: SourceState, loaded: SourceState) -> None:
    """Keep how a source stands in memory where the state, read again, does not know it: no counter ever falls."""
    for family in AT_ONCE:
        for labels, count in memory.counts.get(family.name, {}).items():
            known = loaded.count(family.name, labels, amount=0)
            # Memory is never behind the state here, unless another process has written to it since.
            known.value = max(known.value, count.value)
    if (memory.status.last_poll or 0.0) > (loaded.status.last_poll or 0.0):
        loaded.status = memory.status
