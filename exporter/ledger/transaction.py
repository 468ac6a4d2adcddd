"""A transaction that is not yet written: copies of the records it changes, and the rows it will write."""

from collections.abc import Iterable

from exporter.counting.labels import OTHER, clean, distinct_label, label_of
from exporter.counting.records import JobState
from exporter.counting.rules import included_since
from exporter.ledger.series_room import SeriesRoom
from exporter.model import Job


class Transaction(SeriesRoom):
    """Changes to one source's records, which are written together."""

    def update_jobs(self, jobs: Iterable[Job]) -> None:
        """Apply the vendor's list of jobs: add new jobs, and update names and other details."""
        # Excluded jobs have records too, so that a job renamed into the filter is recognized.
        for job in jobs:
            key = self.find(job.job_id)
            if key is None:
                self._create(job, self._baseline(job))
                continue
            known = self.peek(key)
            if known.job != job or known.gone or known.excluded == self.rules.wants(label_of(job)):
                self._update_job(self.job(key), job)

    def reapply_filter(self, key: int) -> None:
        """Apply a changed filter to a job."""
        self._update_job(self.job(key), self.peek(key).job)

    def revive(self, key: int) -> None:
        """Give a job that was gone its series again, because it has a run."""
        state = self.job(key)
        self._update_job(state, state.job)
        self.restart_grace(key)

    def restart_grace(self, key: int) -> None:
        """Restart the grace period of an unlisted job, because it has a run."""
        state = self.job(key)
        state.missing_since = self.poll.now if state.listed else None

    def retire(self, key: int) -> None:
        """End the series of a job that no longer exists, and drop its counters."""
        state = self.job(key)
        self.series -= self._weight(state)
        state.retire(self.poll.now)

    def _baseline(self, job: Job) -> float:
        """Return the scope's baseline, or the time the job was included in the config if that is later."""
        since = included_since(self.source.filters, label_of(job))
        scope = self.source.scopes.get(job.scope)
        baseline = self.poll.now if scope is None else scope.baseline
        return baseline if since is None else max(baseline, since)

    def _create(self, job: Job, baseline: float) -> None:
        key, self._next_key = self._next_key, self._next_key + 1
        self._new[job.job_id] = key
        state = JobState(
            key=key,
            source=self.rules.name,
            job=job,
            project=clean(job.project),
            name=label_of(job),
            discovered=self.poll.now,
            baseline=baseline,
            excluded=not self.rules.wants(label_of(job)),
        )
        self.jobs[key] = state
        if not state.excluded:
            self._set_labels(state)
            self._seed_or_fold(state)

    def _update_job(self, state: JobState, job: Job) -> None:
        """Apply a job's new description. The series of a job that is renamed or returns start at 0."""
        renamed = (job.project, job.name) != (state.job.project, state.job.name)
        returns, included = state.gone, state.excluded
        if _schedule_of(job) != _schedule_of(state.job):
            state.expected_since = self.poll.now
        if state.shown:
            self.series -= self._weight(state)  # the new series are added below
        state.job, state.excluded = job, not self.rules.wants(label_of(job))
        state.gone, state.gone_since, state.missing_since = False, None, None
        if renamed or returns:
            state.counts, state.distributions = {}, {}
        if state.excluded:
            state.project, state.name = clean(job.project), label_of(job)
            return
        if included:
            state.baseline = max(state.baseline, self.poll.started)
        if renamed or returns or included:
            self._set_labels(state, keep=not renamed)
            self._seed_or_fold(state)
        else:
            self.series += self._weight(state)

    def _set_labels(self, state: JobState, *, keep: bool = False) -> None:
        """Set the labels. If another job has the name, append the ID. `keep`: keep the current labels if possible."""
        project, name, number = clean(state.job.project), label_of(state.job), 0
        if keep and not self._is_taken(state.project, state.name, state.key):
            project, name = state.project, state.name
        while self._is_taken(project, name, state.key):
            number += 1
            name = distinct_label(label_of(state.job), state.job.job_id, number)
        state.project, state.name = project, name
        self._names[project, name] = state.key

    def _is_taken(self, project: str, name: str, key: int) -> bool:
        if project == name == OTHER:
            return True
        holder = self._names.get((project, name)) or self._committed.names.get((self.rules.name, project, name))
        if holder is None or holder == key:
            return False
        kept = self.peek(holder)
        return kept.shown and (kept.project, kept.name) == (project, name)


def _schedule_of(job: Job) -> tuple[object, ...]:
    return job.schedule, job.timezone, job.enabled is False
