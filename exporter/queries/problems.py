"""What is wrong now, in the words of the alerts that would say the same: pure functions."""

from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import msgspec

from exporter.duration import format_duration
from exporter.links import run_path
from exporter.queries.jobs import AssessedJob
from exporter.queries.records import Problem, SourceReport
from exporter.snapshot import conditions
from exporter.snapshot.conditions import KINDS, SEVERITIES, capped, worst


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """All that problems are found in.

    `refused`: why the last reload was; `state_error`: why nothing is committed; `unmatched`: objectives without a job.
    """

    now: float
    sources: tuple[SourceReport, ...]
    jobs: tuple[AssessedJob, ...]
    watermarks: dict[str, float | None]
    refused: str = ""
    state_error: str = ""
    unmatched: tuple[int, ...] = ()


def problems(standing: Standing) -> tuple[Problem, ...]:
    """All problems, the most urgent first, then those that began last."""
    found = [*_of_exporter(standing), *_of_sources(standing), *_of_jobs(standing)]
    return tuple(sorted(found, key=_urgency))


def _urgency(problem: Problem) -> tuple[int, int, float, str]:
    return (
        SEVERITIES.index(problem.severity),
        conditions.urgency(problem.kind),
        -(problem.since or 0.0),
        problem.subject,
    )


def _of_exporter(standing: Standing) -> Iterator[Problem]:
    folded = sum(job.view.state.folded for job in standing.jobs)
    if standing.state_error:
        sentence = f"The state cannot be written, so nothing is counted: {standing.state_error}."
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
        severity=KINDS[kind].severity,
        kind=kind,
        subject=subject,
        source=source,
        since=since,
        sentence=sentence,
        link=link,
    )


Said = tuple[str, float | None]
"""What is wrong, and since when."""


def _down(source: SourceReport, _now: float) -> Said | None:
    if source.up is not False:
        return None
    return f"It could not be read ({source.last_reason}): {source.last_error}.", source.last_success


def _stale(source: SourceReport, _now: float) -> Said | None:
    if source.up is not True or not conditions.too_far_behind(source.lag, source.poll_interval):
        return None
    if source.lag is None:
        return "No batch has been complete yet.", None
    return f"Runs are complete only up to {_age(source.lag)} ago.", source.watermark


def _gap(source: SourceReport, now: float) -> Said | None:
    if not source.unobserved or not conditions.recent(source.last_unobserved, conditions.GAP_SHOWN, now):
        return None
    latest = source.unobserved[0]
    return f"{_age(latest.end - latest.start)} could not be read before the API forgot them.", latest.start


def _truncated(source: SourceReport, now: float) -> Said | None:
    if not conditions.recent(source.last_truncated, conditions.TRUNCATED_SHOWN, now):
        return None
    return "The API truncated responses, which were requested again in parts. Nothing is lost.", source.last_truncated


def _unreadable(source: SourceReport, _now: float) -> Said | None:
    if not source.scopes_unreadable:
        return None
    return f"The credential may not read {source.scopes_unreadable} scopes: {', '.join(source.unreadable)}.", None


def _rate_limit(source: SourceReport, now: float) -> Said | None:
    budget = source.budget
    if not conditions.rate_limit_low(budget.remaining, budget.limit, budget.reset, now):
        return None
    return f"{budget.remaining:g} of {budget.limit:g} requests remain until the API's limit starts again.", None


def _credential(source: SourceReport, now: float) -> Said | None:
    expiry = source.credential_expiry
    if expiry is None or not conditions.not_renewed(expiry, source.last_poll):
        return None
    if expiry > now:
        return "The credential in use expires within a minute, and there is no new one.", expiry
    return f"The credential in use expired {_age(now - expiry)} ago.", expiry


SOURCE_KINDS: dict[str, Callable[[SourceReport, float], Said | None]] = {
    "JobrunSourceDown": _down,
    "JobrunSourceStale": _stale,
    "JobrunSourceCoverageGap": _gap,
    "JobrunSourceScopeUnreadable": _unreadable,
    "JobrunSourceRateLimitLow": _rate_limit,
    "JobrunSourceCredentialExpiring": _credential,
    "JobrunSourceTruncated": _truncated,
}


def _of_sources(standing: Standing) -> Iterator[Problem]:
    for source in standing.sources:
        for kind, say in SOURCE_KINDS.items():
            said = say(source, standing.now)
            if said is not None:
                yield _problem(kind, said[0], "/?" + urlencode({"source": source.name}), said[1], source.name)


Found = tuple[str, str, float | None]
"""A kind, what is wrong, and since when."""


def _failures(job: AssessedJob, watermark: float | None) -> Iterator[Found]:
    view, state = job.view, job.view.state
    failure = state.last_failure
    step = f" in step {failure.failed_step}" if failure and failure.failed_step else ""
    error = f" with {failure.error_type}" if failure and failure.error_type else ""
    if conditions.failing_repeatedly(view, watermark):
        latest = f", the latest{step}{error}" if step or error else ""
        yield "JobrunFailingRepeatedly", f"The last {state.streak} runs failed{latest}.", state.failing_since
    elif conditions.failing(view):
        yield (
            "JobrunLastRunFailed",
            f"The last run failed{step}{error}, and none has succeeded since.",
            state.failing_since,
        )
    elif conditions.recovered(view, watermark) and failure is not None:
        yield "JobrunFailureRecovered", f"A run failed{step}{error}, and one has succeeded since.", failure.end


def _expectations(job: AssessedJob, watermark: float | None) -> Iterator[Found]:
    view, state = job.view, job.view.state
    now = watermark or 0.0
    if conditions.stale(view, watermark):
        since = "yet" if state.last_success is None else f"for {_age(now - state.last_success)}"
        sentence = f"No run has succeeded {since}; one should every {format_duration(round(view.freshness or 0))}."
        yield "JobrunNoRecentSuccess", sentence, state.last_success
    if conditions.overdue(view, watermark):
        sentence = f"A run was expected {_age(now - (view.next_expected or 0))} ago."
        yield "JobrunOverdue", sentence, view.next_expected


def _durations(job: AssessedJob, watermark: float | None) -> Iterator[Found]:
    view = job.view
    for open_state in conditions.stuck_in(view, watermark):
        length = conditions.open_for(view, watermark, open_state) or 0.0
        sentence = f"A run has been {open_state} for {_age(length)}; it should take {_age(conditions.limit(view))}."
        yield "JobrunRunStuck", sentence, view.active[open_state][1]
    last = view.state.last_run
    if conditions.slow(view) and last is not None:
        budget = _age(view.duration_budget or 0)
        sentence = f"The last run succeeded, but took {_age(last.duration or 0)}; it should take {budget}."
        yield "JobrunRunSlow", sentence, last.end


WITH_RUN = ("JobrunFailingRepeatedly", "JobrunLastRunFailed", "JobrunFailureRecovered")
"""Kinds that lead to the last failed run."""


def _of_jobs(standing: Standing) -> Iterator[Problem]:
    for source, watermark in standing.watermarks.items():
        jobs = [job for job in standing.jobs if job.view.state.source == source]
        yield from (_together(group) for group in _groups(jobs))
        for job in jobs:
            for find in (_failures, _expectations, _durations):
                yield from (_about(job, *found) for found in find(job, watermark))


def _groups(jobs: list[AssessedJob]) -> Iterator[list[AssessedJob]]:
    """Find the jobs of a source, or of its projects, that fail since about the same time; give those that fail."""
    projects: dict[str, list[AssessedJob]] = {}
    for job in jobs:
        projects.setdefault(job.view.state.project, []).append(job)
    hit = [group for group in projects.values() if _failing(group)]
    # What hits several projects at once is a problem of their source.
    for group in [jobs] if len(hit) > 1 and _many(jobs) else hit:
        if _many(group):
            yield _failing(group)


def _failing(jobs: list[AssessedJob]) -> list[AssessedJob]:
    return [job for job in jobs if conditions.failing(job.view)]


def _many(jobs: list[AssessedJob]) -> bool:
    since = (job.view.state.failing_since for job in _failing(jobs))
    return conditions.many((each for each in since if each is not None), len(jobs))


def _together(failing: list[AssessedJob]) -> Problem:
    source, projects = failing[0].view.state.source, {job.view.state.project for job in failing}
    project = projects.pop() if len(projects) == 1 else ""
    where = {"source": source, **({"project": project} if project else {})}
    return Problem(
        severity=worst(capped("critical", job.view.page) for job in failing),
        kind="JobrunManyJobsFailing",
        subject=" / ".join(where.values()),
        source=source,
        project=project,
        sentence=f"{len(failing)} jobs fail since about the same time.",
        link="/runs?" + urlencode({**where, "result": "failure"}),
    )


def _about(job: AssessedJob, kind: str, sentence: str, since: float | None) -> Problem:
    view, state = job.view, job.view.state
    labels = {"source": state.source, "project": state.project, "job_name": state.name}
    failure = state.last_failure if kind in WITH_RUN else None
    learned = kind == "JobrunNoRecentSuccess" and "freshness" in view.learned
    return Problem(
        severity=capped("warning" if learned else KINDS[kind].severity, view.page),
        kind=kind,
        subject=" / ".join(label for label in labels.values() if label),
        **labels,
        since=since,
        sentence=sentence,
        link=run_path(state.source, failure.run_id) if failure else "/runs?" + urlencode(labels),
    )


def _age(seconds: float) -> str:
    return format_duration(round(max(0.0, seconds)))
