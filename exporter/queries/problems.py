"""Finds current problems, each with the name of its alert. Pure functions."""

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlencode

from exporter.duration import format_roughly
from exporter.links import run_path, runs_path
from exporter.model import State
from exporter.queries.records import Problem, SourceReport
from exporter.snapshot import conditions
from exporter.snapshot.conditions import KINDS, SEVERITIES, capped, worst
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import ExporterView

Found = tuple[str, str, float | None]
"""Name of an alert, a sentence about the problem, and since when the problem exists."""


def find_problems(
    sources: Sequence[SourceReport], jobs: Iterable[JobView], exporter: ExporterView, now: float
) -> tuple[Problem, ...]:
    """Return all problems: the most urgent first, and the latest first among equally urgent ones."""
    jobs = [job for job in jobs if not job.state.overflow]
    problems = [_problem(found) for found in _exporter_problems(exporter, sum(job.state.folded for job in jobs))]
    for source in sources:
        for find_in_source in (_poll_problems, _coverage_problems, _limit_problems):
            problems += [_problem(found, source.name) for found in find_in_source(source, now)]
        jobs_of_source = [job for job in jobs if job.state.source == source.name]
        problems += map(_failing_together, _outages(jobs_of_source))
        for job in jobs_of_source:
            for find_in_job in (_failures, _expectations, _durations):
                problems += [_job_problem(job, found) for found in find_in_job(job, source.watermark)]
    return tuple(sorted(problems, key=_sort_key))


def _sort_key(problem: Problem) -> tuple[int, int, float, str]:
    severity, kind = SEVERITIES.index(problem.severity), conditions.urgency(problem.kind)
    return severity, kind, -(problem.since or 0.0), problem.subject


# --- the exporter and sources ---


def _problem(found: Found, source: str = "") -> Problem:
    kind, sentence, since = found
    return Problem(
        severity=KINDS[kind].severity,
        kind=kind,
        subject=source or "jobrun-exporter",
        source=source,
        since=since,
        sentence=sentence,
        link="/?" + urlencode({"source": source}) if source else "/",
    )


def _exporter_problems(exporter: ExporterView, folded: int) -> Iterator[Found]:
    if exporter.state_error:
        sentence = f"The state cannot be written, so nothing is counted: {exporter.state_error}."
        yield "JobrunExporterStateNotCommitting", sentence, None
    if exporter.reload is not None and exporter.reload.error:
        sentence = f"The config was refused and the old one stays active: {exporter.reload.error}"
        yield "JobrunExporterConfigReloadFailed", sentence, None
    for index in exporter.unmatched:
        sentence = f"objectives[{index}] in the config matches no job, so it has no effect."
        yield "JobrunObjectiveMatchesNothing", sentence, None
    if folded:
        sentence = f"{folded} jobs are counted together as __other__: there are more series than metrics.max_series."
        yield "JobrunExporterSeriesOverflow", sentence, None


def _poll_problems(source: SourceReport, _now: float) -> Iterator[Found]:
    # A poll that could read only some customers or projects does not page. If the others stay unread, the source
    # becomes stale.
    if source.up is False and (source.last_success is None or source.last_success != source.last_poll):
        sentence = "No customer or project can be read."
        if source.last_error:
            sentence = f"The last poll failed ({source.last_reason}): {source.last_error}."
        yield "JobrunSourceDown", sentence, source.last_success
    if source.up is True and conditions.is_too_far_behind(source.lag, source.poll_interval):
        sentence = "No poll has been complete yet."
        if source.lag is not None:
            sentence = f"Runs of the last {format_roughly(source.lag)} are not read completely."
        yield "JobrunSourceStale", sentence, source.watermark


def _coverage_problems(source: SourceReport, now: float) -> Iterator[Found]:
    if source.unobserved and conditions.is_recent(source.last_unobserved, conditions.GAP_SHOWN, now):
        start, length = source.unobserved[0].start, source.unobserved[0].end - source.unobserved[0].start
        sentence = f"Runs in a period of {format_roughly(length)} were never read: the API no longer shows them."
        yield "JobrunSourceCoverageGap", sentence, start
    if source.scopes_unreadable:
        sentence = f"{source.scopes_unreadable} scopes cannot be read: {', '.join(source.unreadable)}."
        yield "JobrunSourceScopeUnreadable", sentence, None
    if conditions.is_recent(source.last_truncated, conditions.TRUNCATED_SHOWN, now):
        sentence = "The API truncated responses. Missing runs are requested again; some APIs do not show all of them."
        yield "JobrunSourceTruncated", sentence, source.last_truncated


def _limit_problems(source: SourceReport, now: float) -> Iterator[Found]:
    budget, expiry = source.budget, source.credential_expiry
    if conditions.is_rate_limit_low(budget.remaining, budget.limit, budget.reset, now):
        sentence = f"{budget.remaining:g} of {budget.limit:g} requests remain until the API's limit resets."
        yield "JobrunSourceRateLimitLow", sentence, None
    is_unusable = conditions.is_not_renewed(expiry, source.last_poll)
    if expiry is not None and (is_unusable or conditions.is_not_replaced(expiry, source.credential_since, now)):
        sentence = f"The credential in use expired {format_roughly(now - expiry)} ago."
        if expiry > now:
            sentence = f"The credential in use expires in {format_roughly(expiry - now)}, and there is no new one."
        yield "JobrunSourceCredentialExpiring", sentence, expiry


# --- jobs ---


def _outages(jobs: list[JobView]) -> Iterator[list[JobView]]:
    """Yield the failing jobs of each source or project in which many began to fail at about the same time."""
    projects: dict[str, list[JobView]] = {}
    for job in jobs:
        projects.setdefault(job.state.project, []).append(job)
    affected = [group for group in projects.values() if _failing(group)]
    # If several projects are affected, it is a problem of their source.
    for group in [jobs] if len(affected) > 1 and _many(jobs) else affected:
        if _many(group):
            yield _failing(group)


def _failing(jobs: list[JobView]) -> list[JobView]:
    return [job for job in jobs if conditions.is_failing(job)]


def _many(jobs: list[JobView]) -> bool:
    since = (job.state.failing_since for job in _failing(jobs))
    return conditions.are_many_failing((each for each in since if each is not None), len(jobs))


def _failing_together(failing: list[JobView]) -> Problem:
    source, projects = failing[0].state.source, {job.state.project for job in failing}
    project = projects.pop() if len(projects) == 1 else ""
    where = {"source": source, "project": project} if project else {"source": source}
    return Problem(
        severity=worst(capped("critical", job.page) for job in failing),
        kind="JobrunManyJobsFailing",
        subject=" / ".join(where.values()),
        source=source,
        project=project,
        sentence=f"{len(failing)} jobs have been failing since about the same time.",
        link=runs_path(**where, result="failure"),
    )


def _failures(job: JobView, watermark: float | None) -> Iterator[Found]:
    state, failure = job.state, job.state.last_failure
    step = f" in step {failure.failed_step}" if failure and failure.failed_step else ""
    error = f" with {failure.error_type}" if failure and failure.error_type else ""
    # At most one of the three is reported: the most severe one that applies.
    if conditions.is_failing_repeatedly(job, watermark):
        latest = f", the latest{step}{error}" if step or error else ""
        yield "JobrunFailingRepeatedly", f"The last {state.streak} runs failed{latest}.", state.failing_since
    elif conditions.is_failing(job):
        sentence = f"The last run failed{step}{error}, and no run has succeeded since."
        yield "JobrunLastRunFailed", sentence, state.failing_since
    elif conditions.has_recovered(job, watermark) and failure is not None:
        yield "JobrunFailureRecovered", f"A run failed{step}{error}, and a later run succeeded.", failure.end


def _expectations(job: JobView, watermark: float | None) -> Iterator[Found]:
    success, now = job.state.last_success, watermark or 0.0
    if conditions.is_stale(job, watermark):
        since = "yet" if success is None else f"for {format_roughly(now - success)}"
        sentence = f"No run has succeeded {since}; one is expected every {format_roughly(job.freshness or 0)}."
        yield "JobrunNoRecentSuccess", sentence, success
    if conditions.is_overdue(job, watermark):
        sentence = f"A run was expected {format_roughly(now - (job.next_expected or 0))} ago."
        yield "JobrunOverdue", sentence, job.next_expected


def _durations(job: JobView, watermark: float | None) -> Iterator[Found]:
    for state in conditions.stuck_in(job, watermark):
        length = format_roughly(conditions.active_for(job, watermark, state) or 0.0)
        word = "waiting" if state is State.PENDING else "running"
        sentence = f"A run has been {word} for {length}; the limit is {format_roughly(conditions.run_limit(job))}."
        yield "JobrunRunStuck", sentence, job.active[state][1]
    last = job.state.last_run
    if conditions.is_slow(job) and last is not None:
        took, budget = format_roughly(last.duration or 0), format_roughly(job.duration_budget or 0)
        yield "JobrunRunSlow", f"The last run succeeded but took {took}; the limit is {budget}.", last.end


ABOUT_FAILED_RUN = ("JobrunFailingRepeatedly", "JobrunLastRunFailed", "JobrunFailureRecovered")
"""Alerts whose problems link to the last failed run."""


def _job_problem(job: JobView, found: Found) -> Problem:
    (kind, sentence, since), state = found, job.state
    labels = {"source": state.source, "project": state.project, "job_name": state.name}
    failure = state.last_failure if kind in ABOUT_FAILED_RUN else None
    learned = kind == "JobrunNoRecentSuccess" and "freshness" in job.learned  # never pages, because it may be wrong
    return Problem(
        severity=capped("warning" if learned else KINDS[kind].severity, job.page),
        kind=kind,
        subject=" / ".join(label for label in labels.values() if label),
        **labels,
        team=job.team,
        since=since,
        sentence=sentence,
        link=run_path(state.source, failure.run_id) if failure else runs_path(**labels),
    )
