"""What is wrong now, in the words of the alerts that would say the same: pure functions."""

from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlencode

import msgspec

from exporter.duration import format_duration
from exporter.links import run_path
from exporter.reports.of_jobs import CONDITIONS, Judged, oldest_start
from exporter.reports.records import Problem, SourceReport

DAY = 86400.0

LEAST_LAG = 600.0
"""Seconds that a source may be behind whatever its interval."""

INTERVALS = 3
"""Intervals that a source may be behind."""

LOW = 0.1
"""The part of a rate limit below which little remains."""

REPEATEDLY = 3
"""Failures in a row."""

SEVERITIES = ("critical", "warning", "info")

KINDS = {
    "JobrunExporterStateNotCommitting": "critical",
    "JobrunSourceDown": "critical",
    "JobrunFailingRepeatedly": "critical",
    "JobrunNoRecentSuccess": "critical",
    "JobrunLastRunFailed": "warning",
    "JobrunOverdue": "warning",
    "JobrunRunStuck": "warning",
    "JobrunSourceStale": "warning",
    "JobrunSourceCoverageGap": "warning",
    "JobrunSourceScopeUnreadable": "warning",
    "JobrunSourceRateLimitLow": "warning",
    "JobrunSourceCredentialExpiring": "warning",
    "JobrunObjectiveMatchesNothing": "warning",
    "JobrunExporterConfigReloadFailed": "warning",
    "JobrunExporterSeriesOverflow": "warning",
}
"""Severities, the most urgent kind first."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """All that problems are found in.

    `refused`: why the last reload was; `state_fault`: why nothing is committed; `unmatched`: objectives without a job.
    """

    now: float
    sources: tuple[SourceReport, ...]
    jobs: tuple[Judged, ...]
    watermarks: dict[str, float | None]
    refused: str = ""
    state_fault: str = ""
    unmatched: tuple[int, ...] = ()


def problems(standing: Standing) -> tuple[Problem, ...]:
    """All problems, the most urgent first, then those that began last."""
    found = [*_of_exporter(standing), *_of_sources(standing), *_of_jobs(standing)]
    return tuple(sorted(found, key=_urgency))


def _urgency(problem: Problem) -> tuple[int, int, float, str]:
    kind = list(KINDS).index(problem.kind)
    return SEVERITIES.index(problem.severity), kind, -(problem.since or 0.0), problem.subject


def _of_exporter(standing: Standing) -> Iterator[Problem]:
    folded = sum(job.view.state.folded for job in standing.jobs)
    if standing.state_fault:
        sentence = f"The state cannot be written, so nothing is counted: {standing.state_fault}."
        yield _problem("JobrunExporterStateNotCommitting", sentence, "/")
    if standing.refused:
        sentence = f"The configuration was refused, the one before stays in force: {standing.refused}"
        yield _problem("JobrunExporterConfigReloadFailed", sentence, "/")
    for place in standing.unmatched:
        sentence = (
            f"objectives[{place}] of the configuration matches no job, so nothing is expected of the jobs it means."
        )
        yield _problem("JobrunObjectiveMatchesNothing", sentence, "/")
    if folded:
        sentence = f"{folded} jobs are counted together as __other__: there are more series than metrics.max_series."
        yield _problem("JobrunExporterSeriesOverflow", sentence, "/")


def _problem(kind: str, sentence: str, link: str, since: float | None = None, source: str = "") -> Problem:
    subject = source or "jobrun-exporter"
    return Problem(
        severity=KINDS[kind], kind=kind, subject=subject, source=source, since=since, sentence=sentence, link=link
    )


Said = tuple[str, float | None]
"""What is wrong, and since when."""


def _down(source: SourceReport, _now: float) -> Said | None:
    if source.up is not False:
        return None
    return f"It could not be read ({source.last_reason}): {source.last_fault}.", source.last_success


def _stale(source: SourceReport, _now: float) -> Said | None:
    if source.lag is None or source.lag <= max(LEAST_LAG, INTERVALS * source.poll_interval):
        return None
    return f"Endings are counted only up to {_age(source.lag)} ago.", source.watermark


def _gap(source: SourceReport, now: float) -> Said | None:
    latest = source.unobserved[0] if source.unobserved else None
    if latest is None or now - latest.end > DAY:
        return None
    return f"{_age(latest.end - latest.start)} could not be read before the API forgot them.", latest.start


def _unreadable(source: SourceReport, _now: float) -> Said | None:
    if not source.scopes_unreadable:
        return None
    return f"The credential may not read {source.scopes_unreadable} scopes: {', '.join(source.unreadable)}.", None


def _rate_limit(source: SourceReport, now: float) -> Said | None:
    budget = source.budget
    if budget.limit is None or budget.remaining is None or (budget.reset is not None and budget.reset < now):
        return None
    if budget.remaining >= LOW * budget.limit:
        return None
    return f"{budget.remaining:g} of {budget.limit:g} requests remain until the API's limit starts anew.", None


def _credential(source: SourceReport, now: float) -> Said | None:
    if source.credential_expiry is None or source.credential_expiry > now:
        return None
    return f"The credential in use has ended {_age(now - source.credential_expiry)} ago.", source.credential_expiry


SOURCE_KINDS: dict[str, Callable[[SourceReport, float], Said | None]] = {
    "JobrunSourceDown": _down,
    "JobrunSourceStale": _stale,
    "JobrunSourceCoverageGap": _gap,
    "JobrunSourceScopeUnreadable": _unreadable,
    "JobrunSourceRateLimitLow": _rate_limit,
    "JobrunSourceCredentialExpiring": _credential,
}


def _of_sources(standing: Standing) -> Iterator[Problem]:
    for source in standing.sources:
        for kind, say in SOURCE_KINDS.items():
            said = say(source, standing.now)
            if said is not None:
                yield _problem(kind, said[0], "/?" + urlencode({"source": source.name}), said[1], source.name)


def _failed(job: Judged) -> str:
    state = job.view.state
    failure = state.last_failure
    step = f" in step {failure.failed_step}" if failure and failure.failed_step else ""
    error = f" with {failure.error_type}" if failure and failure.error_type else ""
    if state.streak >= REPEATEDLY:
        latest = f", the latest{step}{error}" if step or error else ""
        return f"The last {state.streak} runs failed{latest}."
    return f"The last run failed{step}{error}, and none has succeeded since."


def _of_jobs(standing: Standing) -> Iterator[Problem]:
    for job in standing.jobs:
        yield from _of_job(job, standing.watermarks.get(job.view.state.source))


def _of_job(job: Judged, watermark: float | None) -> Iterable[Problem]:
    view, state = job.view, job.view.state
    if state.streak > 0:
        kind = "JobrunFailingRepeatedly" if state.streak >= REPEATEDLY else "JobrunLastRunFailed"
        yield _about(job, kind, _failed(job), state.failing_since, failed=True)
    if CONDITIONS["stale"](view, watermark) and view.freshness is not None:
        since = "yet" if state.last_success is None else f"for {_age((watermark or 0) - state.last_success)}"
        sentence = f"No run has succeeded {since}; one should every {format_duration(round(view.freshness))}."
        yield _about(job, "JobrunNoRecentSuccess", sentence, state.last_success)
    if CONDITIONS["overdue"](view, watermark):
        late = (watermark or 0) - (view.next_expected or 0)
        yield _about(job, "JobrunOverdue", f"A run was expected {_age(late)} ago.", view.next_expected)
    if CONDITIONS["slow"](view, watermark):
        length = (watermark or 0) - (oldest_start(view) or 0)
        sentence = f"A run has been under way for {_age(length)}; it should take {_age(view.duration_budget or 0)}."
        yield _about(job, "JobrunRunStuck", sentence, oldest_start(view))


def _about(job: Judged, kind: str, sentence: str, since: float | None, *, failed: bool = False) -> Problem:
    state = job.view.state
    labels = {"source": state.source, "project": state.project, "job_name": state.name}
    failure = state.last_failure if failed else None
    return Problem(
        severity=KINDS[kind],
        kind=kind,
        subject=" / ".join(label for label in labels.values() if label),
        **labels,
        since=since,
        sentence=sentence,
        link=run_path(state.source, failure.run_id) if failure else "/runs?" + urlencode(labels),
    )


def _age(seconds: float) -> str:
    return format_duration(round(max(0.0, seconds)))
