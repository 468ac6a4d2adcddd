"""A transaction that is being prepared: copies of the records it changes, and the rows it will write."""

from collections.abc import Iterable

from exporter.counting.records import (
    OTHER,
    JobState,
    clean,
    label_of,
    name_apart,
)
from exporter.counting.rules import included_since
from exporter.ledger.series_room import SeriesRoom
from exporter.model import Job


class Transaction(SeriesRoom):
    """What the vendor reports of jobs, applied to copies of one source's records, which are then written."""

    def describe(self, jobs: Iterable[Job]) -> None:
        """Apply what the vendor reports of jobs: new ones, new names, other details."""
        # Excluded jobs have records too: otherwise a job that is renamed into its filter would not be recognized.
        for job in jobs:
            key = self.find(job.job_id)
            if key is None:
                self._create(job, self._baseline(job))
                continue
            known = self.look(key)
            if known.job != job or known.gone or known.excluded == self._rules.wants(label_of(job)):
                self._redescribe(self.job(key), job)

    def refilter(self, key: int) -> None:
        """Apply a changed filter to a job."""
        self._redescribe(self.job(key), self.look(key).job)

    def revive(self, key: int) -> None:
        """Bring back a job that is gone, as a run of it came. It stays for as long as discovery may miss a job."""
        state = self.job(key)
        self._redescribe(state, state.job)
        self.stay(key)

    def stay(self, key: int) -> None:
        """Keep a job that discovery does not show for a while longer, as a run of it came."""
        state = self.job(key)
        state.missing_since = self._now if state.listed else None

    def retire(self, key: int) -> None:
        """End the series of a job that no longer exists, and drop what it counted."""
        state = self.job(key)
        self.series -= self._weight(state)
        state.retire(self._now)

    def _baseline(self, job: Job) -> float:
        """Return the scope's baseline, or the time the job was included in the config if that is later."""
        since = included_since(self.source.filters, label_of(job))
        scope = self.source.scopes.get(job.scope)
        baseline = self._now if scope is None else scope.baseline
        return baseline if since is None else max(baseline, since)

    def _create(self, job: Job, baseline: float) -> None:
        key, self._next_key = self._next_key, self._next_key + 1
        self._new[job.job_id] = key
        state = JobState(
            key=key,
            source=self._rules.name,
            job=job,
            project=clean(job.project),
            name=label_of(job),
            discovered=self._now,
            baseline=baseline,
            excluded=not self._rules.wants(label_of(job)),
        )
        self.jobs[key] = state
        if not state.excluded:
            self._name(state)
            self._begin(state)

    def _redescribe(self, state: JobState, job: Job) -> None:
        """Apply a description. Series of a renamed job and of one that returns start at 0."""
        renamed = (job.project, job.name) != (state.job.project, state.job.name)
        returns, included = state.gone, state.excluded
        if _rhythm(job) != _rhythm(state.job):
            state.expected_since = self._now
        if state.shown:
            self.series -= self._weight(state)  # those that end make room for those that begin
        state.job, state.excluded = job, not self._rules.wants(label_of(job))
        state.gone, state.gone_since, state.missing_since = False, None, None
        if renamed or returns:
            state.counts, state.distributions = {}, {}
        if state.excluded:
            state.project, state.name = clean(job.project), label_of(job)
            return
        if included:
            state.baseline = max(state.baseline, self._started)
        if renamed or returns or included:
            self._name(state, keep=not renamed)
        self._begin(state) if renamed or returns or included else self._count_series(state)

    def _count_series(self, state: JobState) -> None:
        self.series += self._weight(state)

    def _name(self, state: JobState, *, keep: bool = False) -> None:
        """Set the labels. A name that another job has gets the ID appended. `keep`: leave labels that are free."""
        project, name, number = clean(state.job.project), label_of(state.job), 0
        if keep and not self._taken(state.project, state.name, state.key):
            project, name = state.project, state.name
        while self._taken(project, name, state.key):
            number += 1
            name = name_apart(label_of(state.job), state.job.job_id, number)
        state.project, state.name = project, name
        self._names[project, name] = state.key

    def _taken(self, project: str, name: str, key: int) -> bool:
        if project == name == OTHER:
            return True
        holder = self._names.get((project, name)) or self._books.names.get((self._rules.name, project, name))
        if holder is None or holder == key:
            return False
        kept = self.look(holder)
        return kept.shown and (kept.project, kept.name) == (project, name)


def _rhythm(job: Job) -> tuple[object, ...]:
    """Return what decides when runs are due."""
    return job.schedule, job.timezone, job.enabled is False
