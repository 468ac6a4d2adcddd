"""What is said of sources: a pure function of what is committed and of what the last poll told."""

from exporter.config.source import SourceSettings
from exporter.counting.records import SourceState
from exporter.ledger.batch_writer import merged
from exporter.polling.schedule import ScheduledSource
from exporter.reports.records import BudgetReport, Range, SourceReport
from exporter.sources import SOURCES

MOST_SHOWN = 20
"""Ranges and scopes that are shown."""


def report(  # noqa: PLR0913  # each is one of the things that a report is made of
    polled: ScheduledSource, settings: SourceSettings, state: SourceState, *, jobs: int, open_runs: int, now: float
) -> SourceReport:
    """How a source stands."""
    meter, watermark = polled.meter, state.watermark()
    up = meter.value("jobrun_source_up")
    unreadable = sorted(name for name, scope in state.scopes.items() if not scope.readable)
    return SourceReport(
        name=settings.name,
        provider=settings.type,
        api_url=SOURCES[settings.type].access(settings).root,
        up=None if up is None else bool(up),
        last_poll=meter.value("jobrun_source_last_poll_timestamp_seconds"),
        last_poll_duration=meter.value("jobrun_source_last_poll_duration_seconds"),
        last_outcome=polled.poller.last_outcome,
        last_reason=polled.poller.last_reason,
        last_error=polled.poller.last_error,
        last_success=meter.value("jobrun_source_last_success_timestamp_seconds"),
        poll_interval=meter.value("jobrun_source_poll_interval_seconds") or settings.poll_interval,
        watermark=watermark,
        lag=None if watermark is None else max(0.0, now - watermark),
        baseline=state.baseline,
        unobserved_seconds=sum(end - start for start, end in state.unobserved),
        unobserved=tuple(Range(*each) for each in reversed(merged(state.unobserved)[-MOST_SHOWN:])),
        truncated=_count(state, "jobrun_source_truncated_responses_total"),
        last_truncated=state.last_truncated,
        last_unobserved=state.last_unobserved,
        scopes_readable=len(state.scopes) - len(unreadable),
        scopes_unreadable=len(unreadable),
        unreadable=tuple(unreadable[:MOST_SHOWN]),
        jobs=jobs,
        open_runs=open_runs,
        steps_pending=int(meter.value("jobrun_source_step_fetches_pending") or 0),
        steps_lost=_count(state, "jobrun_source_steps_lost_total"),
        unmapped=_words(state),
        credential_expiry=meter.value("jobrun_source_credential_expiry_timestamp_seconds"),
        budget=BudgetReport(
            requests_per_minute=settings.requests_per_minute,
            limit=meter.value("jobrun_source_rate_limit_limit_requests"),
            remaining=meter.value("jobrun_source_rate_limit_remaining_requests"),
            reset=meter.value("jobrun_source_rate_limit_reset_timestamp_seconds"),
        ),
    )


def _count(state: SourceState, family: str) -> int:
    return int(sum(count.value for count in state.counts.get(family, {}).values()))


def _words(state: SourceState) -> dict[str, int]:
    """Status words that no table knows."""
    counts = state.counts.get("jobrun_source_unmapped_status_total", {})
    return {word: int(count.value) for word, count in counts.items() if count.value}
