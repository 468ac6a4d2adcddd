"""What is said of jobs: pure functions of what is committed.

As by the alerts, jobs are judged at their source's watermark: while nothing can be read it stands still, so that an
outage of an API never looks like a missed run.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from exporter.counting.records import LastRun
from exporter.model import State
from exporter.queries.filters import JobOrder, JobQuery
from exporter.queries.records import CompletedRun, JobReport
from exporter.snapshot.conditions import STATUSES
from exporter.snapshot.job import JobView


class AssessedJob(msgspec.Struct, frozen=True):
    """A job with what is said of it in a word."""

    view: JobView
    status: str


def judged(view: JobView, watermark: float | None) -> AssessedJob:
    """The first status that is true of a job."""
    return AssessedJob(view, next(status for status, true in STATUSES.items() if true(view, watermark)))


def oldest_start(view: JobView) -> float | None:
    """When the oldest run under way started."""
    return view.active.get(State.EXECUTING, (0, None))[1]


def report(job: AssessedJob, recent: tuple[CompletedRun, ...] = ()) -> JobReport:
    """All that is shown of a job."""
    view, state = job.view, job.view.state
    failure = state.last_failure
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
        last_run=None if state.last_run is None else _completed(state.last_run),
        last_start=None if state.last_run is None else state.last_run.start,
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
        executing=view.active.get(State.EXECUTING, (0, None))[0],
        oldest_start=oldest_start(view),
        status=job.status,
        folded=state.folded,
        recent=recent,
    )


def _completed(last: LastRun) -> CompletedRun:
    return CompletedRun(run_id=last.run_id, result=last.result, end=last.order, duration=last.duration)


def fits(job: AssessedJob, wanted: JobQuery) -> bool:
    """Whether a job is one of those that are wanted, whatever its status."""
    state, search = job.view.state, wanted.search.casefold()
    return (
        wanted.source in ("", state.source)
        and wanted.project in (None, state.project)
        and wanted.job_name in ("", state.name)
        and wanted.team in ("", job.view.team)
        and any(search in text.casefold() for text in (state.name, state.job.job_id, state.project))
    )


def statuses(jobs: Iterable[AssessedJob]) -> dict[str, int]:
    """How many jobs there are of each status."""
    counts = Counter(job.status for job in jobs)
    return {status: counts[status] for status in STATUSES}


def ordered(jobs: Iterable[AssessedJob], order: JobOrder) -> list[AssessedJob]:
    """In an order: what it goes by, then the name; jobs of which it is not known come last."""
    value = ORDERS[order]

    def key(job: AssessedJob) -> tuple[bool, float, tuple[str, str, str]]:
        state, known = job.view.state, value(job)
        return known is None, known or 0.0, (state.name, state.project, state.source)

    return sorted(jobs, key=key)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _of_last(value: Callable[[LastRun], float | None]) -> Callable[[AssessedJob], float | None]:
    return lambda job: None if job.view.state.last_run is None else value(job.view.state.last_run)


ORDERS: dict[JobOrder, Callable[[AssessedJob], float | None]] = {
    JobOrder.URGENCY: lambda job: list(STATUSES).index(job.status),
    JobOrder.NAME: lambda _: 0.0,
    JobOrder.LAST_RUN: _of_last(lambda last: -last.order),
    JobOrder.LAST_SUCCESS: lambda job: job.view.state.last_success,
    JobOrder.STREAK: lambda job: -job.view.state.streak,
    JobOrder.DURATION: _of_last(lambda last: _negative(last.duration)),
    JobOrder.NEXT_EXPECTED: lambda job: job.view.next_expected,
}
