"""Ends the series of idle jobs, and prunes old runs."""

from exporter.counting.records import JobState, copy
from exporter.ledger.ledger import Ledger
from exporter.ledger.transaction import fork
from exporter.metrics.families import STEPS_LOST

PRUNE_BATCH = 10_000
"""Runs pruned per transaction, so that polls do not wait long."""


def expire_jobs(ledger: Ledger, now: float, job_expiry: float) -> None:
    """End the series of unlisted jobs that had no run for `job_expiry` seconds. Raises StateError."""
    with ledger.lock:
        ledger.load()
        idle = [copy(job) for name in _owned(ledger) for job in _idle_jobs(ledger, name, now, job_expiry)]
        for job in idle:
            job.retire(now)
        if idle:
            ledger.replace(idle)


def prune(ledger: Ledger, now: float, retention: float) -> int:
    """Prune runs older than the retention, then jobs that are gone. Return the number of runs. Raises StateError."""
    pruned = 0
    for name in _owned(ledger):
        read_through = _read_through(ledger, name, now)
        if read_through is None:
            continue
        while runs := _prune_runs(ledger, name, read_through - retention, now):
            pruned += runs
        _delete_jobs(ledger, name, read_through - retention)
    if pruned:
        with ledger.lock:
            ledger.store().checkpoint()
    return pruned


def _owned(ledger: Ledger) -> list[str]:
    """Return the names of the known sources, configured or not, whose records this process may write."""
    # A copy, because the thread of a replica may add sources.
    return [name for name in list(ledger.committed.sources) if ledger.owns(name)]


def _read_through(ledger: Ledger, name: str, now: float) -> float | None:
    """Return the time against which ages are measured: the watermark, but at most `now`; None if unknown."""
    # If the clock is ahead, ages measured against it would expire jobs and prune runs too early. The watermark of a
    # removed source no longer moves, so the newest watermark of the configured sources replaces it.
    sources = [name] if name in ledger.rules else list(ledger.rules)
    marks = [ledger.committed.sources[each].watermark() for each in sources]
    latest = max((mark for mark in marks if mark is not None), default=None)
    return None if latest is None else min(now, latest)


def _idle_jobs(ledger: Ledger, name: str, now: float, job_expiry: float) -> list[JobState]:
    rules, read_through = ledger.rules.get(name), _read_through(ledger, name, now)
    if read_through is None:
        return []
    is_busy = ledger.committed.open_runs.is_busy
    return [
        job
        for key, job in ledger.committed.of_source(name).items()
        if not job.gone
        and (rules is None or not (job.listed or is_busy(key) or rules.has_objective(job)))
        and (job.last_run.order if job.last_run else job.discovered) < read_through - job_expiry
    ]


def _prune_runs(ledger: Ledger, name: str, before: float, now: float) -> int:
    """Prune at most PRUNE_BATCH runs. Return their number."""
    with ledger.lock:
        source = fork(ledger.committed.sources[name])
        # A pruned run that the API still shows must not count again.
        source.pruned_before = max(before, source.pruned_before or before)
        with ledger.writing(name) as store:
            jobs, steps_lost = store.prune(name, source.pruned_before, PRUNE_BATCH)
            if not jobs:
                return 0
            if steps_lost:
                source.count(STEPS_LOST, amount=steps_lost)
            store.put_source(source, (), ())
        with ledger.updating_memory(name):
            ledger.put_source(source)
            ledger.last_commit = now
            # Values learned from the pruned runs may be out of date.
            ledger.changed_jobs |= set(jobs) & ledger.committed.jobs.keys()
        return len(jobs)


def _delete_jobs(ledger: Ledger, name: str, before: float) -> None:
    """Delete jobs that have been gone for longer than the retention and have no runs left."""
    with ledger.lock:
        jobs = ledger.committed.of_source(name).items()
        gone = [key for key, job in jobs if job.gone and (job.gone_since or 0.0) < before]
        if not gone:
            return
        with ledger.writing(name) as store:
            empty = store.without_runs(gone)
            store.delete_jobs(empty)
        with ledger.updating_memory(name):
            for key in empty:
                ledger.committed.delete(key)
            ledger.changed_jobs |= set(empty)
