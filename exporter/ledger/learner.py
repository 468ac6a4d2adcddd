"""When a job's past is read again, and what it teaches."""

import msgspec

from exporter.counting.records import JobState
from exporter.learning.cadence import DAY, SPAN
from exporter.learning.learned import Learned, learn
from exporter.model import PastRun
from exporter.state.storage import Storage

LATEST = 500
"""Runs of a job that are read: three weeks of one that runs hourly."""

ACTIVITY_REACH, ACTIVITY_GRAIN = 8 * DAY, 900.0
"""How far back the ends of a busier job's runs are read, and how finely, in seconds."""

SOONEST = 600.0
"""Seconds for which what was learned holds although another run has ended: a busy job has no news in each."""

LONGEST = 21_600.0
"""Seconds after which a job is learned again although no other run has ended: old runs may have been pruned."""


def is_due(job: JobState, now: float | None) -> bool:
    """Return whether a job's past is worth reading again; without a time, only if it never was."""
    known, last = job.learned, job.last_run
    # The overflow job stands for many, whose starts together form no cadence.
    if last is None or job.overflow or (known.at is not None and now is None):
        return False
    if known.at is None or now is None:
        return True
    # The distance, not the age: a clock that was ahead must not end learning for as long.
    return abs(now - known.at) >= (LONGEST if known.last_run == last.run_id else SOONEST)


def learn_job(store: Storage, job: JobState, now: float) -> Learned:
    """Return what a job's runs in the state teach."""
    runs = store.past(job.key, LATEST)
    activity = store.activity(job.key, _latest(runs) - ACTIVITY_REACH, ACTIVITY_GRAIN) if _is_busy(runs) else ()
    last_run = job.last_run.run_id if job.last_run else ""
    return msgspec.structs.replace(learn(runs, activity), at=now, last_run=last_run)


def _is_busy(runs: list[PastRun]) -> bool:
    """Return whether these are not all runs of the last week."""
    ends = [run.end for run in runs if run.end is not None]
    return len(runs) == LATEST and bool(ends) and max(ends) - min(ends) < SPAN


def _latest(runs: list[PastRun]) -> float:
    return max((run.end for run in runs if run.end is not None), default=0.0)
