"""What is expected of a job: by its objective in the configuration, else by its vendor's schedule, else as learned."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from exporter.config.config import Config, Objective
from exporter.config.source import SourceSettings
from exporter.config.values import Page
from exporter.counting.records import JobState, OpenRun, label_of
from exporter.learning.cadence import Cadence
from exporter.learning.learned import NOTHING, Learned

EARLY = 120.0
"""A start so many seconds before an instant of the schedule is that instant's: clocks differ, and some start early."""

EARLY_SHARE = 0.25
"""But not by more than this part of the time to the instant after."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of one job; None where nothing is. `learned` names what comes from the job's past alone."""

    schedule: str = ""
    next_run: float | None = None
    freshness: float | None = None
    duration_budget: float | None = None
    learned: tuple[str, ...] = ()


class Escalation(msgspec.Struct, frozen=True, kw_only=True):
    """Who hears of a job, and how urgently. `labels`: names and values, the same names for every job."""

    team: str = ""
    page: str = "critical"
    failures_to_page: int = 3
    labels: tuple[tuple[str, str], ...] = ()


NO_OBJECTIVE = Objective()


def objective_of(config: Config, job: JobState) -> Objective | None:
    """Return the objective of a job, found by its vendor's name: a label can end in ` #<id>`."""
    return config.objective_for(job.source, job.project, label_of(job.job))


def escalation(config: Config, source: SourceSettings, objective: Objective | None) -> Escalation:
    """Return who hears of a job: its objective decides, within what its source allows."""
    wanted = objective or NO_OBJECTIVE
    return Escalation(
        team=wanted.team or source.team,
        page=max(wanted.page, source.page, key=get_args(Page).index),
        failures_to_page=wanted.failures_to_page,
        labels=tuple((name, wanted.labels.get(name, "")) for name in config.label_names()),
    )


class _Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """What decides when a job is due: the first of these that is known. `every`: seconds."""

    every: float | None = None
    schedule: str = ""
    timezone: str = ""
    cadence: Cadence | None = None


def expectation(
    job: JobState, objective: Objective | None, learned: Learned = NOTHING, open_runs: Iterable[OpenRun] = ()
) -> Expectation:
    """What is expected of a job. An objective goes before what the vendor says, that before what was learned."""
    wanted = objective or NO_OBJECTIVE
    rhythm = _Rhythm(schedule=job.job.schedule, timezone=job.job.timezone, cadence=learned.cadence)
    if wanted.every:
        rhythm = _Rhythm(every=wanted.every, schedule=f"every {wanted.every:g}s")
    elif wanted.schedule:
        rhythm = _Rhythm(schedule=wanted.schedule, timezone=wanted.timezone or "UTC")
    disabled = job.job.enabled is False
    next_run = None if disabled else _next_run(job, _last_start(job, open_runs), rhythm)
    from_past = {
        "next_run": next_run if not rhythm.every and not rhythm.schedule else None,
        "freshness": learned.freshness if wanted.freshness is None else None,
        "duration_budget": learned.duration_budget if wanted.duration_budget is None else None,
    }
    return Expectation(
        schedule=rhythm.schedule,
        next_run=next_run,
        freshness=wanted.freshness or from_past["freshness"],
        duration_budget=wanted.duration_budget or from_past["duration_budget"],
        learned=tuple(name for name, value in from_past.items() if value is not None),
    )


def _last_start(job: JobState, open_runs: Iterable[OpenRun]) -> float | None:
    """The latest start of a run. One that waits has come too, unless it waits for an instant in the future."""
    starts = [run.origin if run.start is None else run.start for run in open_runs if run.start or not run.scheduled]
    ended = (job.last_start, job.last_run.start if job.last_run else None)
    return max([*starts, *(start for start in ended if start is not None)], default=None)


def _next_run(job: JobState, last: float | None, rhythm: _Rhythm) -> float | None:
    """When the next run should have started at the latest: in the past if it did not come."""
    begun = max(job.discovered if last is None else last, job.expected_since or 0.0)
    if rhythm.every:
        return begun + rhythm.every
    if rhythm.schedule:
        foretold = due_after if begun == last else next_tick
        return foretold(rhythm.schedule, rhythm.timezone, begun)
    return None if rhythm.cadence is None else rhythm.cadence.latest(begun)


def due_after(schedule: str, timezone: str, start: float) -> float | None:
    """The instant of a cron expression at which a run is due after one that started at `start`.

    A start shortly before an instant is that instant's.
    """
    due = next_tick(schedule, timezone, start)
    following = None if due is None or due - start > EARLY else next_tick(schedule, timezone, due)
    if due is None or following is None:
        return due
    return following if due - start <= EARLY_SHARE * (following - due) else due


def next_tick(schedule: str, timezone: str, after: float) -> float | None:
    """The first instant after another that a cron expression names; None if the expression is not understood."""
    try:
        zone = ZoneInfo(timezone) if timezone else UTC
        moment = datetime.fromtimestamp(after, zone)
        return next(CronSim(schedule, moment)).timestamp()
    except (CronSimError, ZoneInfoNotFoundError, StopIteration, ValueError, OverflowError):
        return None
