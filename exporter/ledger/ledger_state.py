"""The committed records in memory, and indexes to find them."""

from collections import defaultdict
from collections.abc import Mapping

from exporter.counting.records import Counted, JobState, SourceState
from exporter.ledger.open_runs import OpenRuns


class LedgerState:
    """The committed records. They are replaced, never changed.

    Attributes:
        jobs: All jobs by key.
        by_id: Keys of jobs by source and the vendor's ID.
        names: Keys of jobs by source, project and name, which are the labels of their series.
        folded: Keys of each source's folded jobs, oldest first.
        series: Number of series of each job that count against `max_series`.
        steps: Number of step names that each job has.
        first_keys: First job key of each source; empty if one process creates all keys.
    """

    def __init__(self) -> None:
        self.sources: dict[str, SourceState] = {}
        self.jobs: dict[int, JobState] = {}
        self.by_id: dict[tuple[str, str], int] = {}
        self.names: dict[tuple[str, str, str], int] = {}
        self.series: dict[int, int] = {}
        self.series_total = 0
        self.steps: dict[int, int] = {}
        self.steps_total = 0
        self.exporter = Counted()
        self.open_runs = OpenRuns()
        self.first_keys: Mapping[str, int] = {}
        self._next_key = 1
        self._next_keys: dict[str, int] = {}
        self.folded: defaultdict[str, dict[int, None]] = defaultdict(dict)
        self._by_source: defaultdict[str, dict[int, JobState]] = defaultdict(dict)
        self._by_scope: defaultdict[tuple[str, str], dict[int, JobState]] = defaultdict(dict)

    def take(self, job: JobState, series: int) -> None:
        """Replace a job's record. `series`: how many of its series count against `max_series`."""
        self._unlink(job.key)
        self.jobs[job.key] = job
        self.by_id[job.source, job.job.job_id] = job.key
        if not job.overflow:
            self._by_source[job.source][job.key] = job
            self._by_scope[job.source, job.job.scope][job.key] = job
        if job.folded:
            self.folded[job.source][job.key] = None
        if job.shown:
            self.names[job.source, job.project, job.name] = job.key
        self._weigh(job.key, series, len(job.step_names()) + len(job.folded_steps) if job.shown else 0)
        self._next_key = max(self._next_key, job.key + 1)
        self._next_keys[job.source] = max(self._next_keys.get(job.source, 0), job.key + 1)

    def next_key(self, source: str) -> int:
        """Return the key of the source's next new job."""
        if not self.first_keys:
            return self._next_key
        return max(self.first_keys[source], self._next_keys.get(source, 0))

    def delete(self, key: int) -> None:
        """Remove a job."""
        job = self.jobs[key]
        self._unlink(key)
        self._by_source[job.source].pop(key, None)
        self._weigh(key, 0, 0)
        del self.jobs[key], self.by_id[job.source, job.job.job_id], self.series[key], self.steps[key]

    def of_source(self, name: str) -> dict[int, JobState]:
        """Return the source's jobs without the overflow job."""
        return self._by_source.get(name, {})

    def of_scope(self, source: str, scope: str) -> dict[int, JobState]:
        """Return the jobs of one scope."""
        return self._by_scope.get((source, scope), {})

    def _weigh(self, key: int, series: int, steps: int) -> None:
        self.series_total += series - self.series.get(key, 0)
        self.series[key] = series
        self.steps_total += steps - self.steps.get(key, 0)
        self.steps[key] = steps

    def _unlink(self, key: int) -> None:
        """Remove a job from the indexes whose keys can change."""
        job = self.jobs.get(key)
        if job is None:
            return
        if self.names.get((job.source, job.project, job.name)) == key:
            del self.names[job.source, job.project, job.name]
        self.folded[job.source].pop(key, None)
        self._by_scope[job.source, job.job.scope].pop(key, None)
        if not self._by_scope[job.source, job.job.scope]:
            del self._by_scope[job.source, job.job.scope]
