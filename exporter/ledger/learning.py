"""Learns from the past runs of jobs that changed."""

from collections.abc import Iterable

import msgspec

from exporter.counting.records import JobState, copy
from exporter.learning.cadence import DAY, SPAN
from exporter.learning.learned import Learned, learn
from exporter.ledger.ledger import Ledger
from exporter.state.sql import SqlStore

MAX_PAST_RUNS = 500
"""Maximum number of past runs that are read per job: three weeks of an hourly job."""

ACTIVITY_REACH, ACTIVITY_GRAIN = 8 * DAY, 900.0
"""Seconds for which the activity of a busy job is read, and the length of its intervals."""

MIN_LEARN_INTERVAL = 600.0
"""Minimum seconds until the same job is learned from again: one more run of a busy job changes little."""

MAX_LEARN_INTERVAL = 21_600.0
"""Seconds after which a job without new runs is learned from again, because its old runs may have been pruned."""


def due_to_learn(ledger: Ledger) -> list[int]:
    """Return the keys of changed jobs whose past runs must be read again."""
    with ledger.lock:
        jobs = ledger.committed.jobs
        keys = jobs.keys() if ledger.everything_changed else ledger.changed_jobs & jobs.keys()
        owned = {name for name in ledger.rules if ledger.owns(name)}
        return [key for key in keys if jobs[key].source in owned and is_due(jobs[key], ledger.last_commit)]


def is_due(job: JobState, now: float | None) -> bool:
    """Return whether to learn from a job's past runs again. `now` is None before the process's first commit."""
    known, last = job.learned, job.last_run
    # The starts of the many jobs in the overflow job have no cadence.
    if last is None or job.overflow:
        return False
    if known.at is None or now is None:
        return known.at is None
    # The absolute difference: if the clock was ahead, `known.at` is in the future, and learning must not wait for it.
    return abs(now - known.at) >= (MAX_LEARN_INTERVAL if known.last_run == last.run_id else MIN_LEARN_INTERVAL)


def learn_from(ledger: Ledger, keys: Iterable[int]) -> None:
    """Learn from the past runs of jobs, and commit the result. Raises StateError."""
    with ledger.lock:
        jobs = [copy(ledger.committed.jobs[key]) for key in keys if key in ledger.committed.jobs]
        for job in jobs:
            job.learned = _learned(ledger.store(), job, ledger.last_commit or 0.0)
        ledger.replace(jobs)


def _learned(store: SqlStore, job: JobState, now: float) -> Learned:
    runs = store.past_runs(job.key, MAX_PAST_RUNS)
    ends = [run.end for run in runs if run.end is not None]
    # A busy job has more than MAX_PAST_RUNS runs per SPAN, so `runs` shows too little of its week.
    is_busy = len(runs) == MAX_PAST_RUNS and bool(ends) and max(ends) - min(ends) < SPAN
    activity = store.activity(job.key, max(ends) - ACTIVITY_REACH, ACTIVITY_GRAIN) if is_busy else ()
    last_run = job.last_run.run_id if job.last_run else ""
    return msgspec.structs.replace(learn(runs, activity), at=now, last_run=last_run)
