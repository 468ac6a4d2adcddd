"""Expectations of a job: from its objective in the config, else from the vendor's schedule, else from past runs."""

from collections.abc import Iterable

import msgspec

from exporter.config import Config, Objective
from exporter.counting.labels import label_of
from exporter.counting.records import JobState, OpenRun
from exporter.cron import Schedule, next_tick, parse_schedule
from exporter.learning.cadence import Cadence

MAX_EARLY_START = 120.0
"""Seconds by which a run may start before its scheduled time: clocks differ, and some runs start early."""

MAX_EARLY_FRACTION = 0.25
"""A run may start early by at most this fraction of the time between two scheduled times."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """Expectations of one job. A value is None if nothing is expected.

    Attributes:
        next_expected: When the next run should start.
        freshness: Maximum age of the last success, in seconds.
        duration_budget: Maximum duration of a run, in seconds.
        learned: Which of `next_run`, `freshness` and `duration_budget` are learned from past runs.
    """

    schedule: str = ""
    unparsed: bool = False
    next_expected: float | None = None
    freshness: float | None = None
    duration_budget: float | None = None
    learned: tuple[str, ...] = ()


NO_OBJECTIVE = Objective()


def objective_of(config: Config, job: JobState) -> Objective | None:
    """Return the objective of a job; None if no objective matches it."""
    # Objectives match the vendor's name. The label may end in ` #<id>`.
    return config.objective_for(job.source, job.project, label_of(job.job))


def expectation(job: JobState, objective: Objective | None, open_runs: Iterable[OpenRun] = ()) -> Expectation:
    """Return a job's expectations."""
    configured, learned = objective or NO_OBJECTIVE, job.learned
    text, schedule = _schedule(job, configured)
    disabled = job.job.enabled is False
    next_run = None if disabled else _next_run(job, _last_start(job, open_runs), schedule, learned.cadence)
    learned_values = {
        "next_run": next_run if schedule is None else None,
        "freshness": learned.freshness if configured.freshness is None else None,
        "duration_budget": learned.duration_budget if configured.duration_budget is None else None,
    }
    return Expectation(
        schedule=text,
        unparsed=bool(text) and schedule is None,
        next_expected=next_run,
        freshness=configured.freshness or learned_values["freshness"],
        duration_budget=configured.duration_budget or learned_values["duration_budget"],
        learned=tuple(name for name, value in learned_values.items() if value is not None),
    )


def _schedule(job: JobState, configured: Objective) -> tuple[str, Schedule | None]:
    """Return the job's schedule as text ("" if it has none) and parsed (None if it is not valid)."""
    if configured.every:
        return f"every {configured.every:g}s", Schedule(every=configured.every)
    text = configured.schedule or job.job.schedule
    timezone = (configured.timezone or "") if configured.schedule else job.job.timezone
    try:
        return text, parse_schedule(text, timezone) if text else None
    except ValueError:
        return text, None


def _last_start(job: JobState, open_runs: Iterable[OpenRun]) -> float | None:
    """Return the latest start of a run. A pending run counts as started, unless its start is planned for later."""
    starts = [run.origin if run.start is None else run.start for run in open_runs if run.start or not run.scheduled]
    completed = (job.last_start, job.last_run.start if job.last_run else None)
    return max([*starts, *(start for start in completed if start is not None)], default=None)


def _next_run(job: JobState, last: float | None, schedule: Schedule | None, cadence: Cadence | None) -> float | None:
    """Return the time by which the next run should start. It is in the past if the run is overdue."""
    since = max(job.discovered if last is None else last, job.expected_since or 0.0)
    if schedule is None:
        return None if cadence is None else cadence.latest(since)
    if schedule.every:
        return since + schedule.every
    return due_after(schedule, since) if since == last else next_tick(schedule, since)


def due_after(schedule: Schedule, start: float) -> float | None:
    """Return when the next run of a cron job should start, after one that started at `start`."""
    # Some schedulers start early: a run that started shortly before a scheduled time is the run of that time.
    due = next_tick(schedule, start)
    following = None if due is None or due - start > MAX_EARLY_START else next_tick(schedule, due)
    if due is None or following is None:
        return due
    return following if due - start <= MAX_EARLY_FRACTION * (following - due) else due
