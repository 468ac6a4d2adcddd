"""Changes committed records outside of polls: exposes series, learns, expires jobs, prunes runs."""

from collections.abc import Collection, Iterable

import msgspec

from exporter.counting.records import Counted, JobState, SourceState, copy
from exporter.counting.series import Count, Distribution
from exporter.learning.cadence import DAY, SPAN
from exporter.learning.learned import Learned, learn
from exporter.ledger.journal import expose_unobserved
from exporter.ledger.queries import LedgerQueries
from exporter.ledger.transaction import fork
from exporter.metrics.families import STEPS_LOST
from exporter.metrics.zero_first import Owner, Series
from exporter.model import PastRun
from exporter.state.sql import SqlStore

PRUNE_BATCH = 10_000
"""Runs pruned per transaction, so that polls do not wait long."""

MAX_PAST_RUNS = 500
"""Maximum number of past runs that are read per job: three weeks of an hourly job."""

ACTIVITY_REACH, ACTIVITY_GRAIN = 8 * DAY, 900.0
"""How far back the activity of busy jobs is read, and its resolution, in seconds."""

MIN_LEARN_INTERVAL = 600.0
"""Minimum seconds between two times of learning: a single run of a busy job changes little."""

MAX_LEARN_INTERVAL = 21_600.0
"""Maximum seconds between two times of learning: without new runs, old ones may have been pruned."""


class Housekeeping(LedgerQueries):
    """Changes committed records without reading an API."""

    def expose(self, series: Iterable[Series]) -> None:
        """Commit that the values of these series are exposed from now on. Scrapes have read them as 0."""
        with self._lock:
            changed: dict[Owner, JobState | SourceState | Counted] = {}
            for each, family, labels in series:
                owner: Owner = ("source", str(each[-1])) if each[0] == "unobserved" else each
                record = changed.get(owner) or self._record(owner)
                if record is not None:
                    changed[owner] = record if owner in changed else copy(record)
                    if owner is each:
                        _expose(changed[owner], family, labels)
                    else:
                        expose_unobserved(changed[owner])
            self._replace(changed.values())

    def expose_sources(self, names: Collection[str]) -> None:
        """Commit that all series of these sources are exposed: scrapes may have read them before commits were lost.

        Counters that polls cannot count again, such as the number of polls, continue from this process's values.
        """
        with self._lock:
            jobs = [copy(job) for job in self.committed.jobs.values() if job.source in names]
            sources = [copy(self.committed.sources[name]) for name in names]
            for source in sources:
                source.raise_to(self._lost_counts.pop(source.name, source))
            for record in (*jobs, *sources):
                record.expose()
            self._replace([*jobs, *sources, copy(self.committed.exporter)])

    def may_expose(self, owner: Owner) -> bool:
        """Return whether this process may write the owner's record."""
        record = self._record(("source", str(owner[-1])) if owner[0] == "unobserved" else owner)
        source = record.source if isinstance(record, JobState) else getattr(record, "name", None)
        return source is None or self.owns(source)

    def _record(self, owner: Owner) -> JobState | SourceState | Counted | None:
        match owner:
            case ("job", int(key)):
                return self.committed.jobs.get(key)
            case ("source", str(name)):
                return self.committed.sources.get(name)
            case _:
                return self.committed.exporter

    def expire(self, now: float, job_expiry: float) -> None:
        """End the series of unlisted jobs that had no run for `job_expiry` seconds."""
        # The age is measured at the watermark, so that a clock that is ahead does not end all jobs. The watermark of a
        # removed source no longer moves, so the newest watermark of the others is used.
        with self._lock:
            self.load()
            old = [copy(job) for name in self._writable() for job in self._idle_jobs(name, now, job_expiry)]
            for job in old:
                job.retire(now)
            if old:
                self._replace(old)

    def _writable(self) -> list[str]:
        """Return the names of the known sources, configured or not, whose records this process may write."""
        return [name for name in self.committed.sources if self.owns(name)]

    def _idle_jobs(self, name: str, now: float, job_expiry: float) -> list[JobState]:
        rules = self._rules.get(name)
        before = min(now, self._read_through(name) or float("-inf")) - job_expiry
        return [
            job
            for key, job in self.committed.of_source(name).items()
            if not job.gone
            and (rules is None or not (job.listed or self._open.is_busy(key) or rules.never_expires(job)))
            and (job.last_run.order if job.last_run else job.discovered) < before
        ]

    def _read_through(self, name: str) -> float | None:
        """Return the watermark of a source; for a removed source, the newest watermark of the others."""
        if name in self._rules:
            return self.committed.sources[name].watermark()
        marks = [self.committed.sources[each].watermark() for each in list(self._rules)]
        return max((mark for mark in marks if mark is not None), default=None)

    def prune(self, now: float, retention: float) -> int:
        """Prune runs older than the retention, then jobs that are gone. Return the number of runs."""
        # The age is measured at the watermark, so that a clock that is ahead does not prune everything. The watermark
        # of a removed source no longer moves, so the newest watermark of the others is used.
        pruned = 0
        for name in self._writable():
            mark = self._read_through(name)
            while mark is not None:
                some = self._prune(name, min(now, mark) - retention, now)
                pruned += some
                if some < PRUNE_BATCH:
                    break
            if mark is not None:
                self._delete_jobs(name, min(now, mark) - retention)
        with self._lock:
            if pruned and self._store is not None:
                self._store.checkpoint()
        return pruned

    def _prune(self, name: str, before: float, now: float) -> int:
        """Prune runs, and record up to which end: a pruned run that the API still shows must not count again."""
        with self._lock:
            if self._store is None:
                return 0
            source = fork(self.committed.sources[name])
            source.forgotten = max(before, source.forgotten or before)
            with self._writing(name) as store:
                pruned = store.prune(name, source.forgotten, PRUNE_BATCH)
                if not pruned.jobs:
                    return 0
                if pruned.steps_lost:
                    source.count(STEPS_LOST, amount=pruned.steps_lost)
                store.put_source(source, (), ())
            with self._updating_memory():
                self.last_commit = now
                self._put_source(source)
                # Values learned from the pruned runs may be out of date.
                self._changed.jobs |= set(pruned.jobs) & self.committed.jobs.keys()
            return len(pruned.jobs)

    def _delete_jobs(self, name: str, before: float) -> None:
        """Delete jobs that have been gone for longer than the retention and have no runs left."""
        with self._lock:
            if self._store is None:
                return
            gone = [
                key
                for key, job in self.committed.of_source(name).items()
                if job.gone and (0.0 if job.gone_since is None else job.gone_since) < before
            ]
            if not gone:
                return
            with self._writing(name) as store:
                empty = store.without_runs(gone)
                store.delete_jobs(empty)
            with self._updating_memory():
                for key in empty:
                    self.committed.delete(key)
                self._changed.jobs |= set(empty)

    def due_to_learn(self) -> list[int]:
        """Return the keys of changed jobs from which something new can be learned."""
        with self._lock:
            owned = self.owned()
            return [job.key for job in self.changed() if job.source in owned and is_due(job, self.last_commit)]

    def learn(self, jobs: Iterable[int]) -> None:
        """Learn from the past runs of jobs, and record the result."""
        with self._lock:
            now, store = self.last_commit or 0.0, self.store()
            known = [self.committed.jobs[key] for key in jobs if key in self.committed.jobs]
            learned = [copy(job) for job in known]
            for job in learned:
                job.learned = learn_job(store, job, now)
            self._replace(learned)


def _expose(counted: Counted, family: str, labels: str) -> None:
    for series in (counted.counts, getattr(counted, "distributions", {})):
        found: Count | Distribution | None = series.get(family, {}).get(labels)
        if found is not None:
            found.released = True


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
