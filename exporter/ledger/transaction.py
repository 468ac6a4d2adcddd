"""A transaction in preparation: copies of the records it changes, and the rows it will write."""

from collections.abc import Iterable

from exporter.counting.labels import OTHER, clean, label_of, name_apart
from exporter.counting.records import JobState
from exporter.counting.rules import included_since
from exporter.ledger.series_room import SeriesRoom
from exporter.model import Job


class Transaction(SeriesRoom):
    """Changes to copies of one source's records, which are then written together."""

    def describe(self, jobs: Iterable[Job]) -> None:
        """Apply descriptions of jobs from the vendor: new jobs, new names, other details."""
        # Excluded jobs have records too, so that a job renamed into the filter is recognized.
        for job in jobs:
            key = self.find(job.job_id)
            if key is None:
                self._create(job, self._baseline(job))
                continue
            known = self.look(key)
            if known.job != job or known.gone or known.excluded == self.rules.wants(label_of(job)):
                self._redescribe(self.job(key), job)

    def refilter(self, key: int) -> None:
        """Apply a changed filter to a job."""
        self._redescribe(self.job(key), self.look(key).job)

    def revive(self, key: int) -> None:
        """Bring back a job that was gone, because it has a run. It stays at least as long as lists may miss a job."""
        state = self.job(key)
        self._redescribe(state, state.job)
        self.stay(key)

    def stay(self, key: int) -> None:
        """Keep an unlisted job for a while longer, because it has a run."""
        state = self.job(key)
        state.missing_since = self.poll.now if state.listed else None

    def retire(self, key: int) -> None:
        """End the series of a job that no longer exists, and drop what it counted."""
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
            self._name(state)
            self._begin(state)

    def _redescribe(self, state: JobState, job: Job) -> None:
        """Apply a description. Series of a renamed job and of one that returns start at 0."""
        renamed = (job.project, job.name) != (state.job.project, state.job.name)
        returns, included = state.gone, state.excluded
        if _rhythm(job) != _rhythm(state.job):
            state.expected_since = self.poll.now
        if state.shown:
            self.series -= self._weight(state)  # old series make room for new ones
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
            self._name(state, keep=not renamed)
        self._begin(state) if renamed or returns or included else self._count_series(state)

    def _count_series(self, state: JobState) -> None:
        self.series += self._weight(state)

    def _name(self, state: JobState, *, keep: bool = False) -> None:
        """Set the labels; a name that is taken gets the ID appended. `keep`: keep the current labels if possible."""
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
        holder = self._names.get((project, name)) or self._books.names.get((self.rules.name, project, name))
        if holder is None or holder == key:
            return False
        kept = self.look(holder)
        return kept.shown and (kept.project, kept.name) == (project, name)


def _rhythm(job: Job) -> tuple[object, ...]:
    """Return the parts of a description that decide when runs are due."""
    return job.schedule, job.timezone, job.enabled is False
