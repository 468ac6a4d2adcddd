"""Gives each job its own series while `metrics.max_series` allows it; otherwise `__other__` counts its runs."""

from collections.abc import Sequence

from exporter.counting.counters import bounded_error_type, seed
from exporter.counting.labels import OTHER, clean
from exporter.counting.records import JobState, copy
from exporter.counting.series import SEPARATOR
from exporter.ledger.record_copies import RecordCopies
from exporter.metrics.families import ERRORS, RUN_DURATION, RUNS, STEP_DURATION, STEPS
from exporter.metrics.room import EXPECTED_RESULTS, bucket_lines, step_counters
from exporter.model import Job, Result, Run, Step

OTHER_JOB_ID = SEPARATOR + OTHER
"""ID of a source's overflow job. No vendor's ID is equal to it."""

MAX_FOLDED_STEPS = 1000
"""Maximum number of names of folded steps per job."""

UNFOLD_THRESHOLD = 0.9
"""A folded job gets its own series when less than this fraction of the limit is used."""


class SeriesRoom(RecordCopies):
    """Reserves series for jobs, steps and error types, or counts them under `__other__` if the limit is reached."""

    def _seed_or_fold(self, state: JobState) -> None:
        """Seed a job's series, or fold the job if they would exceed the limit."""
        seed(state, self.rules.results, attempts=self.rules.attempts)
        was_folded, state.folded = state.folded, False  # a folded job uses no room of its own
        series = self._weight(state)
        state.folded = not self._fits(series)
        if state.folded:
            state.counts, state.distributions = {}, {}
            if not was_folded:
                self._count_overflow(RUNS)
        else:
            self.series += series

    def _weight(self, state: JobState) -> int:
        return self.rules.weight(state, step_histograms=self.step_histograms)

    def _fits(self, series: int) -> bool:
        return self.series + series <= self.rules.max_series

    def _has_room(self) -> bool:
        return self.series < UNFOLD_THRESHOLD * self.rules.max_series

    def _reserve(self, series: int) -> bool:
        fits = self._fits(series)
        self.series += series if fits else 0
        return fits

    def unfold(self) -> None:
        """Give folded jobs their own series while the limit allows it."""
        for key in list(self._committed.folded[self.rules.name]) if self._has_room() else ():
            state = copy(self.peek(key))
            self._seed_or_fold(state)
            if state.folded:
                break  # jobs have about equally many series, so the next one does not fit either
            self.jobs[key] = state
            if not self._has_room():
                break

    def target(self, state: JobState) -> JobState:
        """Return the record in which a job is counted: its own, or `__other__` while it is folded."""
        if state.folded and self._has_room():
            self._seed_or_fold(state)
        return self._overflow_job() if state.folded else state

    def observer(self, target: JobState, family: str, *labels: str, bounds: Sequence[float]) -> JobState:
        """Return the record in which a duration is observed: `__other__` if a new histogram does not fit."""
        # The series of a job's expected histograms were reserved when the job was added.
        known = SEPARATOR.join(labels) in target.distributions.get(family, {})
        expected = family == RUN_DURATION and labels[0] in EXPECTED_RESULTS
        if target.overflow or known or expected:
            return target
        if self._reserve(bucket_lines(family, bounds, self.counting.excluded)):
            return target
        self._count_overflow(family)
        return self._overflow_job()

    def _overflow_job(self) -> JobState:
        key = self.find(OTHER_JOB_ID)
        if key is not None:
            return self.job(key)
        key, self._next_key = self._next_key, self._next_key + 1
        self._new[OTHER_JOB_ID] = key
        other = JobState(
            key=key,
            source=self.rules.name,
            job=Job(job_id=OTHER_JOB_ID, name=OTHER, project=OTHER),
            project=OTHER,
            name=OTHER,
            discovered=self.poll.now,
            baseline=self.poll.now,
            overflow=True,
        )
        seed(other, self.rules.results, attempts=self.rules.attempts)
        self.jobs[key] = other
        return other

    def step_label(self, state: JobState, step: Step) -> str:
        """Return the label of a step: its name, or `__other__` if its series do not fit."""
        if state.overflow:
            return OTHER
        name, known, folded = clean(step.name), self._steps_of(state), self._folded_steps_of(state)
        if name in known:
            series = SEPARATOR.join((name, step.result or Result.UNKNOWN))
            return name if series in state.counts.get(STEPS, {}) or self._reserve(self._lines(STEPS)) else OTHER
        if name in folded and not self._has_room():
            return OTHER
        lines = bucket_lines(STEP_DURATION, self.counting.step_buckets, self.counting.excluded) * self.step_histograms
        if self._reserve(step_counters(self.counting.excluded) + lines):
            known.add(name)
            if name in folded:
                folded.remove(name)
                state.folded_steps.remove(name)
            return name
        if name not in folded:
            self._count_overflow(STEPS)
            if len(folded) < MAX_FOLDED_STEPS:
                folded.add(name)
                state.folded_steps.append(name)
        return OTHER

    def _steps_of(self, state: JobState) -> set[str]:
        """Return the set of a job's step names that have series. The caller may add to it."""
        if state.key not in self._steps:
            self._steps[state.key] = set(state.step_names())
        return self._steps[state.key]

    def _folded_steps_of(self, state: JobState) -> set[str]:
        if state.key not in self._folded_steps:
            self._folded_steps[state.key] = set(state.folded_steps)
        return self._folded_steps[state.key]

    def error_type(self, state: JobState, run: Run) -> str:
        """Return the label of a run's error type: `__other__` if its series does not fit."""
        word = clean(run.error_type)
        if word and state.overflow:
            return OTHER
        if not word or word in state.counts.get(ERRORS, {}):
            return word
        if bounded_error_type(state, word) == word and self._reserve(self._lines(ERRORS)):
            return word
        self._count_overflow(ERRORS)
        return OTHER

    def _lines(self, family: str) -> int:
        """Return the room of a new counter series: none if its family is not served."""
        return int(family not in self.counting.excluded)

    def _count_overflow(self, family: str) -> None:
        self.count_for_exporter("jobrun_exporter_series_overflow_total", family)
