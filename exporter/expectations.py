"""What is expected of a job: by its objective in the configuration, else by its vendor's schedule."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from exporter.config import Objective
from exporter.state import JobState


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of one job; None where nothing is."""

    schedule: str = ""
    next_run: float | None = None
    freshness: float | None = None
    duration_budget: float | None = None
    team: str = ""


def expectation(job: JobState, objective: Objective | None) -> Expectation:
    """What is expected of a job; an objective goes before what the vendor says."""
    schedule, timezone = job.job.schedule, job.job.timezone
    if objective is not None and (objective.schedule or objective.every):
        schedule = objective.schedule or f"every {objective.every:g}s"
        timezone = objective.timezone or "UTC"
    return Expectation(
        schedule=schedule,
        next_run=None if job.job.enabled is False else _next_run(job, objective, schedule, timezone),
        freshness=objective.freshness if objective else None,
        duration_budget=objective.duration_budget if objective else None,
        team=objective.team if objective else "",
    )


def _next_run(job: JobState, objective: Objective | None, schedule: str, timezone: str) -> float | None:
    """The first instant after the last run's start at which a run is due: in the past if it did not come."""
    last = job.last_run.start if job.last_run and job.last_run.start is not None else job.discovered
    if objective is not None and objective.every:
        return last + objective.every
    return next_tick(schedule, timezone, last) if schedule else None


def next_tick(schedule: str, timezone: str, after: float) -> float | None:
    """The first instant after another that a cron expression names; None if the expression is not understood."""
    try:
        zone = ZoneInfo(timezone) if timezone else UTC
        moment = datetime.fromtimestamp(after, zone)
        return next(CronSim(schedule, moment)).timestamp()
    except (CronSimError, ZoneInfoNotFoundError, StopIteration, ValueError, OverflowError):
        return None
