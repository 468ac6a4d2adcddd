"""Applies descriptions of jobs from the vendor, and filters from the config, to a transaction."""

from collections.abc import Iterable

from exporter.counting.labels import OTHER, clean, distinct_label, label_of
from exporter.counting.records import JobState
from exporter.counting.rules import included, included_since
from exporter.ledger.series_room import SeriesRoom
from exporter.ledger.transaction import Transaction
from exporter.model import Job


class JobWriter:
    """Changes the jobs of one transaction."""

    def __init__(self, transaction: Transaction, room: SeriesRoom) -> None:
        self._transaction = transaction
        self._room = room
        self._rules = transaction.rules
        self._poll = transaction.poll
        self._keys_of_labels: dict[tuple[str, str], int] = {}

    def update_jobs(self, jobs: Iterable[Job]) -> None:
        """Apply the vendor's list of jobs: add new jobs, and update names and other details."""
        # Excluded jobs have records too, so that a job is recognized when it gets a name that the config includes.
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
        """Give a job that was gone its series again, because it has a run."""
        state = self._transaction.job(key)
        self._update(state, state.job)
        state.missing_since = self._poll.now if state.listed else None

    def restart_grace(self, state: JobState) -> None:
        """Restart the grace period of a job that is missing in the vendor's lists, because it has a run."""
        if state.missing_since is not None:
            state.missing_since = self._poll.now if state.listed else None

    def retire(self, key: int) -> None:
        """End the series of a job that no longer exists, and drop its counters."""
        state = self._transaction.job(key)
        self._room.series -= self._room.series_used(state)
        state.retire(self._poll.now)

    def _add(self, job: Job) -> None:
        since = included_since(self._transaction.source.filters, label_of(job))
        scope = self._transaction.source.scopes.get(job.scope)
        baseline = self._poll.now if scope is None else scope.baseline
        # A job that the config did not always include has a later baseline than its scope.
        baseline = baseline if since is None else max(baseline, since)
        state = self._transaction.add_job(job, clean(job.project), label_of(job), baseline=baseline)
        state.excluded = not self._rules.includes(label_of(job))
        if not state.excluded:
            self._set_labels(state)
            self._room.seed_or_fold(state)

    def _update(self, state: JobState, job: Job) -> None:
        """Apply a job's new description. The series of a job that is renamed or returns start at 0."""
        renamed = (job.project, job.name) != (state.job.project, state.job.name)
        returns, was_excluded = state.gone, state.excluded
        if _schedule_of(job) != _schedule_of(state.job):
            state.expected_since = self._poll.now
        if state.shown:
            self._room.series -= self._room.series_used(state)  # the new series are added below
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
            self._room.series += self._room.series_used(state)

    def _set_labels(self, state: JobState, *, keep: bool = False) -> None:
        """Set the labels. If another job has the name, append the ID. `keep`: keep the current labels if possible."""
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
