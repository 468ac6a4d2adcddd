"""Builds, selects and sorts reports of jobs. Pure functions.

As in the alerts, the status of a job is its status at the source's watermark, so an outage of an API never looks like a
missed run.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from exporter.counting.records import LastRun
from exporter.model import State
from exporter.queries.filters import JobOrder, JobQuery
from exporter.queries.records import CompletedRun, JobReport
from exporter.snapshot.conditions import STATUSES
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import Snapshot


def job_reports(snapshot: Snapshot) -> dict[int, JobReport]:
    """Return the reports of all jobs in a snapshot, by key."""
    return {
        key: job_report(view, snapshot.watermark(view.state.source))
        for key, view in snapshot.jobs.items()
        if not view.state.overflow  # `__other__` is not a job
    }


def job_report(view: JobView, watermark: float | None, recent: tuple[CompletedRun, ...] = ()) -> JobReport:
    """Return the report of a job. `recent`: its latest completed runs."""
    state, last, failure = view.state, view.state.last_run, view.state.last_failure
    executing, oldest_start = view.active.get(State.EXECUTING, (0, None))
    return JobReport(
        source=state.source,
        project=state.project,
        job_name=state.name,
        job_id=state.job.job_id,
        url=view.job_url,
        team=view.team,
        schedule=view.schedule,
        enabled=state.job.enabled,
        stop_cause=state.job.stop_cause,
        discovered=state.discovered,
        last_run=None if last is None else _completed(last),
        last_start=None if last is None else last.start,
        streak=state.streak,
        failing_since=state.failing_since,
        last_success=state.last_success,
        last_failure=None if failure is None else failure.order,
        last_failed_run="" if failure is None else failure.run_id,
        failed_step="" if failure is None else failure.failed_step,
        error_type="" if failure is None else failure.error_type,
        next_expected=view.next_expected,
        freshness=view.freshness,
        duration_budget=view.duration_budget,
        pending=view.active.get(State.PENDING, (0, None))[0],
        executing=executing,
        oldest_start=oldest_start,
        status=next(status for status, is_true in STATUSES.items() if is_true(view, watermark)),
        folded=state.folded,
        recent=recent,
    )


def _completed(last: LastRun) -> CompletedRun:
    return CompletedRun(run_id=last.run_id, result=last.result, end=last.order, duration=last.duration)


def matches(job: JobReport, query: JobQuery) -> bool:
    """Return whether a job matches a query, without regard to its `status`."""
    search = query.search.casefold()
    return (
        query.source in ("", job.source)
        and query.project in (None, job.project)  # "" is the project without a name
        and query.job_name in ("", job.job_name)
        and query.team in ("", job.team)
        and any(search in text.casefold() for text in (job.job_name, job.job_id, job.project))
    )


def count_statuses(jobs: Iterable[JobReport]) -> dict[str, int]:
    """Return the number of jobs per status."""
    counts = Counter(job.status for job in jobs)
    return {status: counts[status] for status in STATUSES}


def in_order(jobs: Mapping[int, JobReport], order: JobOrder) -> list[int]:
    """Return the keys of jobs, sorted."""

    def sort_key(key: int) -> tuple[bool, float, str, str, str]:
        job = jobs[key]
        value = SORT_VALUES[order](job)
        return value is None, value or 0.0, job.job_name, job.project, job.source

    return sorted(jobs, key=sort_key)


def _minus_duration(job: JobReport) -> float | None:
    return None if job.last_run is None or job.last_run.duration is None else -job.last_run.duration


SORT_VALUES: dict[JobOrder, Callable[[JobReport], float | None]] = {
    JobOrder.URGENCY: lambda job: list(STATUSES).index(job.status),
    JobOrder.NAME: lambda _: 0.0,
    JobOrder.LAST_RUN: lambda job: None if job.last_run is None else -job.last_run.end,
    JobOrder.LAST_SUCCESS: lambda job: job.last_success,
    JobOrder.STREAK: lambda job: -job.streak,
    JobOrder.DURATION: _minus_duration,
    JobOrder.NEXT_EXPECTED: lambda job: job.next_expected,
}
