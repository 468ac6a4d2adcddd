"""Builds reports of sources. Pure functions."""

from exporter.counting.records import SourceState
from exporter.metrics.families import STEPS_LOST, TRUNCATED, UNMAPPED
from exporter.queries.records import BudgetReport, Range, SourceReport
from exporter.snapshot.source import SourceView

MAX_SHOWN = 20
"""Maximum number of ranges and of scopes in a report."""


def source_report(view: SourceView, now: float) -> SourceReport:
    """Return the report of a source."""
    state, status, watermark, unreadable = view.state, view.status, view.watermark, view.unreadable
    limits = status.rate_limit
    # After the reset, the number of remaining requests is unknown.
    is_reset = limits.reset is not None and limits.reset < now
    return SourceReport(
        name=view.name,
        provider=view.provider,
        api_url=view.api_url,
        up=status.up,
        last_poll=status.last_poll,
        last_poll_duration=status.last_poll_duration,
        last_outcome=status.outcome,
        last_reason=status.reason,
        last_error=status.error,
        last_success=status.last_success,
        poll_interval=view.interval or 0.0,
        watermark=watermark,
        lag=None if watermark is None else max(0.0, now - watermark),
        baseline=state.baseline,
        unobserved_seconds=sum(end - start for start, end in state.unobserved),
        unobserved=tuple(Range(*each) for each in reversed(state.unobserved[-MAX_SHOWN:])),
        last_unobserved=state.last_unobserved,
        truncated=sum(_counts(state, TRUNCATED).values()),
        last_truncated=state.last_truncated,
        scopes_readable=len(state.scopes) - len(unreadable),
        scopes_unreadable=len(unreadable),
        unreadable=unreadable[:MAX_SHOWN],
        jobs=view.jobs,
        open_runs=len(view.open_runs),
        steps_pending=status.pending_steps or 0,
        steps_lost=sum(_counts(state, STEPS_LOST).values()),
        unmapped=_counts(state, UNMAPPED),
        credential_expiry=status.credential_expiry,
        credential_since=status.credential_since,
        budget=BudgetReport(
            requests_per_minute=view.requests_per_minute,
            limit=limits.limit,
            remaining=None if is_reset else limits.remaining,
            reset=None if is_reset else limits.reset,
        ),
    )


def _counts(state: SourceState, family: str) -> dict[str, int]:
    counts = state.counts.get(family, {})
    return {label: int(count.value) for label, count in counts.items() if count.value}
