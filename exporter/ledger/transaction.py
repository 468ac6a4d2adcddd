"""A transaction that is being prepared: copies of the records it changes, and the rows it will write."""

from collections.abc import Iterable, Sequence

import msgspec

from exporter.counting.classify import Rules, bounded, seed
from exporter.counting.records import (
    OTHER,
    SEPARATOR,
    Counted,
    JobState,
    ScopeState,
    clean,
    copy,
    fork,
    label_of,
    name_apart,
)
from exporter.counting.rules import SourceRules, included_since
from exporter.ledger.ledger_state import LedgerState
from exporter.metrics.families import ERRORS, RUN_DURATION, RUNS, STEPS
from exporter.metrics.room import EXPECTED_RESULTS, STEP_COUNTERS, bucket_lines
from exporter.model import Job, Result, Run, Step
from exporter.state.schema import StoredRun

OTHER_JOB_ID = SEPARATOR + OTHER
"""The identity of a source's overflow job. No vendor's ID is equal to it."""

MAX_FOLDED_STEPS = 1000
"""Names of folded steps that are remembered per job."""

ROOM = 0.9
"""A folded job gets its own series when less than this part of the limit is used."""


class Transaction:
    """Copies of one source's records, to be changed and then written.

    Args:
        committed: What is committed.
        rules: The source's rules.
        counting: How runs are counted.
        now: The current time.
        started: When the poll started.
        step_histograms: Whether step durations are observed.
    """

    def __init__(  # noqa: PLR0913  # each is one of the things that a transaction is made of
        self,
        committed: LedgerState,
        rules: SourceRules,
        counting: Rules,
        now: float,
        started: float,
        *,
        step_histograms: bool,
    ) -> None:
        self._books = committed
        self._rules = rules
        self._counting = counting
        self._now = now
        self._started = started
        self._step_histograms = step_histograms
        self._steps: dict[int, set[str]] = {}
        self._folded_steps: dict[int, set[str]] = {}
        self._next_key = committed.next_key(rules.name)
        self._new: dict[str, int] = {}
        self._names: dict[tuple[str, str], int] = {}
        self._exporter: Counted | None = None
        self.source = fork(committed.sources[rules.name])
        self.scopes: set[str] = set()
        self.notes: set[str] = set()
        self.jobs: dict[int, JobState] = {}
        self.runs: dict[str, StoredRun] = {}
        self.recount: set[int] = set()
        self.correct: set[int] = set()
        self.series = committed.series_total

    @property
    def exporter(self) -> Counted | None:
        """The exporter's own counters, if this transaction changed them."""
        return self._exporter

    def job(self, key: int) -> JobState:
        """Return a job's record, to be changed."""
        if key not in self.jobs:
            self.jobs[key] = copy(self._books.jobs[key])
        return self.jobs[key]

    def scope(self, name: str) -> ScopeState:
        """Return a scope's record, to be changed."""
        if name not in self.scopes:
            self.put_scope(name, msgspec.structs.replace(self.source.scopes[name]))
        return self.source.scopes[name]

    def put_scope(self, name: str, scope: ScopeState) -> None:
        """Give a scope a new record."""
        self.scopes.add(name)
        self.source.scopes[name] = scope

    def drop_scope(self, name: str) -> None:
        """Forget a scope."""
        self.scopes.add(name)
        self.source.scopes = {each: scope for each, scope in self.source.scopes.items() if each != name}

    def note(self, name: str, text: str) -> None:
        """Keep a checkpoint of the source; "" deletes it."""
        if self.source.notes.get(name, "") == text:
            return
        self.notes.add(name)
        if text:
            self.source.notes[name] = text
        else:
            self.source.notes = {each: note for each, note in self.source.notes.items() if each != name}

    def find(self, job_id: str) -> int | None:
        """Return the key of a job; None if it is unknown."""
        return self._new.get(job_id) or self._books.by_id.get((self._rules.name, job_id))

    def look(self, key: int) -> JobState:
        """Return a job's record, to be read only."""
        return self.jobs.get(key) or self._books.jobs[key]

    def describe(self, jobs: Iterable[Job]) -> None:
        """Apply what the vendor reports of jobs: new ones, new names, other details.

        Jobs that the configuration excludes have records too: only so is a job known that is renamed into its filter.
        """
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

    def _begin(self, state: JobState) -> None:
        """Seed a job's series, or fold the job where there is no room for them."""
        seed(state, self._rules.results, attempts=self._rules.attempts)
        was_folded, state.folded = state.folded, False  # a folded job has no series of its own to be counted
        series = self._weight(state)
        state.folded = not self._fits(series)
        if state.folded:
            state.counts, state.distributions = {}, {}
            if not was_folded:
                self._overflow(RUNS)
        else:
            self.series += series

    def _weight(self, state: JobState) -> int:
        return self._rules.weight(state, step_histograms=self._step_histograms)

    def _fits(self, series: int) -> bool:
        return self.series + series <= self._rules.max_series

    def _has_room(self) -> bool:
        return self.series < ROOM * self._rules.max_series

    def unfold(self) -> None:
        """Give folded jobs series of their own, as far as there is room again."""
        for key in list(self._books.folded[self._rules.name]) if self._has_room() else ():
            state = copy(self.look(key))
            self._begin(state)
            if state.folded:
                break  # jobs need about the same room: the next one finds none either
            self.jobs[key] = state
            if not self._has_room():
                break

    def target(self, state: JobState) -> JobState:
        """Return the record in which a job is counted: its own, or `__other__` while it is folded."""
        if state.folded and self._has_room():
            self._begin(state)
        return self._other() if state.folded else state

    def observer(self, target: JobState, family: str, *labels: str, bounds: Sequence[float]) -> JobState:
        """Return the record in which a duration is observed: `__other__` where a new histogram finds no room.

        Those that every job is expected to have found their room when the job did.
        """
        known = SEPARATOR.join(labels) in target.distributions.get(family, {})
        expected = family == RUN_DURATION and labels[0] in EXPECTED_RESULTS
        if target.overflow or known or expected:
            return target
        if self._take(bucket_lines(bounds)):
            return target
        self._overflow(family)
        return self._other()

    def _other(self) -> JobState:
        key = self.find(OTHER_JOB_ID)
        if key is not None:
            return self.job(key)
        key, self._next_key = self._next_key, self._next_key + 1
        self._new[OTHER_JOB_ID] = key
        other = JobState(
            key=key,
            source=self._rules.name,
            job=Job(job_id=OTHER_JOB_ID, name=OTHER, project=OTHER),
            project=OTHER,
            name=OTHER,
            discovered=self._now,
            baseline=self._now,
            overflow=True,
        )
        seed(other, self._rules.results, attempts=self._rules.attempts)
        self.jobs[key] = other
        return other

    def keys(self, scope: str) -> list[int]:
        """Return the keys of a scope's jobs."""
        drafted = {key for key, state in self.jobs.items() if state.job.scope == scope and not state.overflow}
        left = {key for key, state in self.jobs.items() if state.job.scope != scope}
        return sorted((self._books.of_scope(self._rules.name, scope).keys() | drafted) - left)

    def step_label(self, state: JobState, step: Step) -> str:
        """Return the label of a step: its name, or `__other__` where there is no room for its series."""
        if state.overflow:
            return OTHER
        name, known, folded = clean(step.name), self._steps_of(state), self._folded_steps_of(state)
        if name in known:
            series = SEPARATOR.join((name, step.result or Result.UNKNOWN))
            return name if series in state.counts.get(STEPS, {}) or self._take(1) else OTHER
        if name in folded and not self._has_room():
            return OTHER
        if self._take(STEP_COUNTERS + (bucket_lines(self._counting.step_buckets) if self._step_histograms else 0)):
            known.add(name)
            if name in folded:
                folded.remove(name)
                state.folded_steps.remove(name)
            return name
        if name not in folded:
            self._overflow(STEPS)
            if len(folded) < MAX_FOLDED_STEPS:
                folded.add(name)
                state.folded_steps.append(name)
        return OTHER

    def _take(self, series: int) -> bool:
        """Take room for further series of a job, if there is any."""
        fits = self._fits(series)
        self.series += series if fits else 0
        return fits

    def _steps_of(self, state: JobState) -> set[str]:
        """Return the names of a job's steps, as far as they have series; to be added to."""
        if state.key not in self._steps:
            self._steps[state.key] = set(state.step_names())
        return self._steps[state.key]

    def _folded_steps_of(self, state: JobState) -> set[str]:
        if state.key not in self._folded_steps:
            self._folded_steps[state.key] = set(state.folded_steps)
        return self._folded_steps[state.key]

    def error_type(self, state: JobState, run: Run) -> str:
        """Return the label of a run's error type: `__other__` for a new one where there is no room."""
        word = clean(run.error_type)
        if word and state.overflow:
            return OTHER
        if not word or word in state.counts.get(ERRORS, {}):
            return word
        if bounded(state, word) == word and self._take(1):
            return word
        self._overflow(ERRORS)
        return OTHER

    def _overflow(self, family: str) -> None:
        self.count_for_exporter("jobrun_exporter_series_overflow_total", family)

    def count_for_exporter(self, family: str, label: str) -> None:
        """Add to one of the exporter's own counters."""
        if self._exporter is None:
            self._exporter = copy(self._books.exporter)
        self._exporter.count(family, label)


def _rhythm(job: Job) -> tuple[object, ...]:
    """Return what decides when runs are due."""
    return job.schedule, job.timezone, job.enabled is False
