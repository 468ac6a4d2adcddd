"""Decides when to learn from a job's past runs again, and reads them."""

import msgspec

from exporter.counting.records import JobState
from exporter.learning.cadence import DAY, SPAN
from exporter.learning.learned import Learned, learn
from exporter.model import PastRun
from exporter.state.sql import SqlStore

MAX_PAST_RUNS = 500
"""Maximum number of past runs that are read per job: three weeks of an hourly job."""

ACTIVITY_REACH, ACTIVITY_GRAIN = 8 * DAY, 900.0
"""How far back the activity of busy jobs is read, and its resolution, in seconds."""

MIN_LEARN_INTERVAL = 600.0
"""Minimum seconds between two times of learning: a single run of a busy job changes little."""

MAX_LEARN_INTERVAL = 21_600.0
"""Maximum seconds between two times of learning: without new runs, old ones may have been pruned."""


def is_due(job: JobState, now: float | None) -> bool:
    """Return whether to learn from a job's past runs again. If `now` is None: whether nothing was learned yet."""
    known, last = job.learned, job.last_run
    # The overflow job counts many jobs, whose starts together have no cadence.
    if last is None or job.overflow or (known.at is not None and now is None):
        return False
    if known.at is None or now is None:
        return True
    # The absolute difference: if the clock was ahead, `known.at` is in the future, and learning must not wait for it.
    return abs(now - known.at) >= (MAX_LEARN_INTERVAL if known.last_run == last.run_id else MIN_LEARN_INTERVAL)


def learn_job(store: SqlStore, job: JobState, now: float) -> Learned:
    """Return what is learned from a job's runs in the state."""
    runs = store.past(job.key, MAX_PAST_RUNS)
    activity = store.activity(job.key, _latest(runs) - ACTIVITY_REACH, ACTIVITY_GRAIN) if _is_busy(runs) else ()
    last_run = job.last_run.run_id if job.last_run else ""
    return msgspec.structs.replace(learn(runs, activity), at=now, last_run=last_run)


def _is_busy(runs: list[PastRun]) -> bool:
    """Return whether the job has more than MAX_PAST_RUNS runs per SPAN, so that `runs` covers less."""
    ends = [run.end for run in runs if run.end is not None]
    return len(runs) == MAX_PAST_RUNS and bool(ends) and max(ends) - min(ends) < SPAN


def _latest(runs: list[PastRun]) -> float:
    return max((run.end for run in runs if run.end is not None), default=0.0)
