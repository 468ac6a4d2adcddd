"""Reports on sources: pure functions of their views."""

from exporter.counting.records import SourceState
from exporter.ledger.batch_writer import merged
from exporter.metrics.families import STEPS_LOST, TRUNCATED, UNMAPPED
from exporter.queries.records import BudgetReport, Range, SourceReport
from exporter.snapshot.source import SourceView

MOST_SHOWN = 20
"""Ranges and scopes that are shown."""


def report(view: SourceView, requests_per_minute: float, now: float) -> SourceReport:
    """Return how a source stands."""
    state, status = view.state, view.status
    unreadable, watermark = view.unreadable, view.watermark
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
        unobserved=tuple(Range(*each) for each in reversed(merged(state.unobserved)[-MOST_SHOWN:])),
        truncated=_count(state, TRUNCATED),
        last_truncated=state.last_truncated,
        last_unobserved=state.last_unobserved,
        scopes_readable=len(state.scopes) - len(unreadable),
        scopes_unreadable=len(unreadable),
        unreadable=unreadable[:MOST_SHOWN],
        jobs=view.jobs,
        open_runs=len(view.open_runs),
        steps_pending=status.pending_steps or 0,
        steps_lost=_count(state, STEPS_LOST),
        unmapped=_words(state),
        credential_expiry=status.credential_expiry,
        budget=BudgetReport(
            requests_per_minute=requests_per_minute,
            limit=status.rate_limit.limit,
            remaining=status.rate_limit.remaining,
            reset=status.rate_limit.reset,
        ),
    )


def _count(state: SourceState, family: str) -> int:
    return int(sum(count.value for count in state.counts.get(family, {}).values()))


def _words(state: SourceState) -> dict[str, int]:
    """Status words that no table knows."""
    counts = state.counts.get(UNMAPPED, {})
    return {word: int(count.value) for word, count in counts.items() if count.value}
