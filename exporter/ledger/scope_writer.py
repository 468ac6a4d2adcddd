"""Applies a batch to the records of its scope and jobs: the list of jobs, and the time up to which runs were read."""

from collections.abc import Iterable, Sequence

from exporter.counting.labels import OTHER, clean, distinct_label, label_of
from exporter.counting.records import JobState, ScopeState
from exporter.counting.rules import included, included_since
from exporter.ledger.series_room import SeriesRoom
from exporter.ledger.transaction import Transaction
from exporter.metrics.families import TRUNCATED, UNOBSERVED
from exporter.model import Batch, Job, Window

MISSING_GRACE = 900.0
"""Seconds for which the vendor must report a job or scope as missing before its series end: one list may be wrong."""

MAX_RANGES = 1000
"""Maximum number of stored unobserved ranges per source. The oldest are dropped, and may be counted again."""


class ScopeWriter:
    """Changes the records of scopes and jobs in one transaction."""

    def __init__(self, transaction: Transaction, room: SeriesRoom) -> None:
        self._transaction = transaction
        self._room = room
        self._rules = transaction.rules
        self._poll = transaction.poll
        self._keys_of_labels: dict[tuple[str, str], int] = {}

    # --- scopes ---

    def open_scope(self, batch: Batch) -> ScopeState:
        """Return a copy of the scope's record. If it is new, or readable for the first time, set its baseline."""
        source = self._transaction.source
        known = source.scopes.get(batch.scope)
        if known is None:
            self._transaction.put_scope(batch.scope, ScopeState(baseline=self._first_baseline(batch)))
        elif known.watermark is None and not known.read and not known.readable and batch.readable:
            self._transaction.put_scope(batch.scope, ScopeState(baseline=self._poll.started))
        scope = self._transaction.scope(batch.scope)
        scope.readable, scope.missing_since = batch.readable, None
        scope.read = scope.read or batch.readable
        listing = batch.listing
        if listing is not None and listing.at != source.listed and listing.scopes <= source.scopes.keys():
            source.listed = listing.at
        return scope

    def _first_baseline(self, batch: Batch) -> float:
        """Return a new scope's baseline: the time of the last list without it, or else the source's baseline."""
        source = self._transaction.source
        if batch.listing is not None and source.listed is not None:
            return source.listed
        return self._poll.started if source.baseline is None else source.baseline

    def record_missing_scope(self, batch: Batch) -> None:
        """Record that a scope was deleted. After MISSING_GRACE drop it, and end the series of its jobs."""
        if batch.scope not in self._transaction.source.scopes:
            return
        scope, now = self._transaction.scope(batch.scope), self._poll.now
        scope.readable = scope.readable and batch.readable
        scope.missing_since = now if scope.missing_since is None else scope.missing_since
        self.record_listed_jobs(batch)
        busy = any(self._transaction.is_busy(key) for key in self._transaction.jobs_of_scope(batch.scope))
        if now - scope.missing_since > MISSING_GRACE and not busy:
            self._transaction.drop_scope(batch.scope)

    def record_listed_jobs(self, batch: Batch) -> None:
        """Record which jobs the vendor lists. End the series of jobs that have been missing for MISSING_GRACE."""
        listed, now = {job.job_id for job in batch.jobs}, self._poll.now
        for key in self._transaction.jobs_of_scope(batch.scope):
            state = self._transaction.peek(key)
            if state.job.job_id in listed:
                if not state.listed or state.missing_since is not None:
                    state = self._transaction.job(key)
                    state.listed, state.missing_since = True, None
            elif state.listed and state.missing_since is None:
                self._transaction.job(key).missing_since = now
            elif state.listed and not state.gone and now - (state.missing_since or 0) > MISSING_GRACE:
                self._end_series(key)

    def _end_series(self, key: int) -> None:
        """End the series of a job that no longer exists, unless it has an objective or active runs."""
        state = self._transaction.peek(key)
        # An active run must still be counted when it completes.
        if not (self._rules.has_objective(state) or self._transaction.is_busy(key)):
            self._room.series -= self._room.series_needed(state)
            self._transaction.job(key).retire(self._poll.now)

    def move_watermark(self, batch: Batch, scope: ScopeState) -> None:
        """Move the scope's watermark, and record what the batch could not read."""
        source, now = self._transaction.source, self._poll.now
        if batch.truncated:
            source.count(TRUNCATED, amount=batch.truncated)
            source.last_truncated = now
        for window in batch.unobserved:
            if window.start < min(window.end, now):
                self._record_unobserved(Window(window.start, min(window.end, now)))
        # If `through` is in the future, the batch was requested with a wrong clock.
        if batch.readable and batch.through is not None and batch.through <= now:
            scope.watermark = max(self.past_watermark(scope) or batch.through, batch.through)

    def past_watermark(self, scope: ScopeState) -> float | None:
        """Return a scope's watermark; None if it is in the future, which a wrong clock has caused."""
        ahead = scope.watermark is not None and scope.watermark > self._poll.now
        return None if ahead else scope.watermark

    def _record_unobserved(self, window: Window) -> None:
        """Record a range as unobserved, and count its seconds that no recorded range contains."""
        source = self._transaction.source
        before = _covered(source.unobserved)
        source.unobserved = merged([*source.unobserved, (window.start, window.end)])
        seconds = _covered(source.unobserved) - before
        del source.unobserved[:-MAX_RANGES]
        if seconds:
            source.last_unobserved = self._poll.now
        if self._transaction.starting and self._transaction.counting.zero_first:
            source.pending_unobserved += seconds
        else:
            source.count(UNOBSERVED, amount=seconds)

    # --- jobs ---

    def update_jobs(self, jobs: Iterable[Job]) -> None:
        """Apply the vendor's list of jobs: add new jobs, and update names and other details."""
        # Excluded jobs have records too: a job may get a name that the config includes.
        for job in jobs:
            key = self._transaction.find(job.job_id)
            if key is None:
                self._add(job)
                continue
            known = self._transaction.peek(key)
            if known.job != job or known.gone or known.excluded == self._rules.includes(label_of(job)):
                self._update(self._transaction.job(key), job)

    def apply_filter(self) -> None:
        """Apply the filter of the config if it has changed. Newly included jobs get their own baseline."""
        rules, source = self._rules, self._transaction.source
        filters = source.filters
        if filters and filters[-1] == rules.filter_since(filters[-1].since):
            return
        if filters:
            for key, job in self._transaction.committed.of_source(rules.name).items():
                was_excluded = job.excluded or not included(filters[-1], label_of(job.job))
                if was_excluded is rules.includes(label_of(job.job)):
                    self._update(self._transaction.job(key), job.job)
        started = self._poll.started
        filters.append(rules.filter_since(started if filters else source.baseline or started))

    def restore(self, key: int) -> None:
        """Give a job its series again, because it was gone and has a run."""
        state = self._transaction.job(key)
        self._update(state, state.job)
        state.missing_since = self._poll.now if state.listed else None

    def restart_grace(self, state: JobState) -> None:
        """Restart the grace period of a job, because it is missing in the vendor's lists but has a run."""
        if state.missing_since is not None:
            state.missing_since = self._poll.now if state.listed else None

    def _add(self, job: Job) -> None:
        since = included_since(self._transaction.source.filters, label_of(job))
        scope = self._transaction.source.scopes.get(job.scope)
        baseline = self._poll.now if scope is None else scope.baseline
        # A job that was not always included gets a later baseline than its scope.
        baseline = baseline if since is None else max(baseline, since)
        state = self._transaction.add_job(job, clean(job.project), label_of(job), baseline=baseline)
        state.excluded = not self._rules.includes(label_of(job))
        if not state.excluded:
            self._set_labels(state)
            self._room.seed_or_fold(state)

    def _update(self, state: JobState, job: Job) -> None:
        """Apply a job's new description. If the job is renamed or returns, its series start at 0."""
        renamed = (job.project, job.name) != (state.job.project, state.job.name)
        returns, was_excluded = state.gone, state.excluded
        if _schedule_of(job) != _schedule_of(state.job):
            state.expected_since = self._poll.now
        if state.shown:
            self._room.series -= self._room.series_needed(state)  # the new series are added below
        state.job, state.excluded = job, not self._rules.includes(label_of(job))
        state.gone, state.gone_since, state.missing_since = False, None, None
        if renamed or returns:
            state.counts, state.distributions = {}, {}
        if state.excluded:
            state.project, state.name = clean(job.project), label_of(job)
            return
        if was_excluded:
            state.baseline = max(state.baseline, self._poll.started)
        if renamed or returns or was_excluded:
            self._set_labels(state, keep=not renamed)
            self._room.seed_or_fold(state)
        else:
            self._room.series += self._room.series_needed(state)

    def _set_labels(self, state: JobState, *, keep: bool = False) -> None:
        """Set a job's labels. If another job has them, append the ID. `keep`: keep the current labels if possible."""
        project, name, number = clean(state.job.project), label_of(state.job), 0
        if keep and not self._is_taken(state.project, state.name, state.key):
            project, name = state.project, state.name
        while self._is_taken(project, name, state.key):
            number += 1
            name = distinct_label(label_of(state.job), state.job.job_id, number)
        state.project, state.name = project, name
        self._keys_of_labels[project, name] = state.key

    def _is_taken(self, project: str, name: str, key: int) -> bool:
        """Return whether another job has these labels."""
        if project == name == OTHER:
            return True
        committed = self._transaction.committed.names.get((self._rules.name, project, name))
        holder = self._keys_of_labels.get((project, name)) or committed
        if holder is None or holder == key:
            return False
        other = self._transaction.peek(holder)
        return other.shown and (other.project, other.name) == (project, name)


def _schedule_of(job: Job) -> tuple[object, ...]:
    return job.schedule, job.timezone, job.enabled is False


def merged(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the ranges sorted by start, with overlapping ones joined."""
    result: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _covered(ranges: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in ranges)
