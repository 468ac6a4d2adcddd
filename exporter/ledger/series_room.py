"""Gives each job its own series while `metrics.max_series` allows it; otherwise `__other__` counts its runs."""

from collections.abc import Sequence

from exporter.counting.counters import bounded_error_type, seed
from exporter.counting.labels import OTHER, clean
from exporter.counting.names import ERRORS, RUN_DURATION, RUNS, STEP_DURATION, STEPS
from exporter.counting.records import JobState, copy
from exporter.counting.series import SEPARATOR
from exporter.ledger.transaction import Transaction
from exporter.metrics.families import OVERFLOW
from exporter.metrics.room import EXPECTED_RESULTS, bucket_lines, step_counters
from exporter.model import Job, Result, Run, Step

OTHER_JOB_ID = SEPARATOR + OTHER
"""ID of a source's overflow job. No vendor's ID is equal to it."""

MAX_FOLDED_STEPS = 1000
"""Maximum number of folded step names that are remembered per job."""

UNFOLD_THRESHOLD = 0.9
"""Folded jobs get their own series while less than this fraction of the limit is used."""


class SeriesRoom:
    """Reserves series for jobs, steps and error types. If the limit is reached, they are counted under `__other__`.

    Attributes:
        series: Number of series of all jobs, including reserved ones, without overflow jobs.
    """

    def __init__(self, transaction: Transaction) -> None:
        self.series = transaction.committed.series_total
        self._transaction = transaction
        self._rules = transaction.rules
        self._counting = transaction.counting
        self._steps: dict[int, set[str]] = {}

    def series_needed(self, state: JobState) -> int:
        """Return how many series of a job count against `max_series`."""
        return self._rules.series_needed(state, step_histograms=self._counting.step_histograms)

    def seed_or_fold(self, state: JobState) -> None:
        """Create a job's first series at 0. If they would exceed the limit, fold the job."""
        seed(state, self._rules.results, has_attempts=self._rules.has_attempts)
        was_folded, state.folded = state.folded, False  # `series_needed` is 0 for a folded job
        state.folded = not self._reserve(self.series_needed(state))
        if state.folded:
            state.counts, state.distributions = {}, {}
            if not was_folded:
                self._count_overflow(RUNS)

    def _has_room(self) -> bool:
        return self.series < UNFOLD_THRESHOLD * self._rules.max_series

    def _reserve(self, series: int) -> bool:
        """Reserve series. Return False if they would exceed the limit."""
        fits = self.series + series <= self._rules.max_series
        self.series += series if fits else 0
        return fits

    def unfold(self) -> None:
        """Give folded jobs their own series while the limit allows it."""
        for key in list(self._transaction.committed.folded[self._rules.name]) if self._has_room() else ():
            state = copy(self._transaction.peek(key))
            self.seed_or_fold(state)
            if state.folded:
                break  # the next job has about as many series, so it does not fit either
            self._transaction.jobs[key] = state
            if not self._has_room():
                break

    def target(self, state: JobState) -> JobState:
        """Return the record in which a job is counted: its own, or `__other__` while it is folded."""
        if state.folded and self._has_room():
            self.seed_or_fold(state)
        return self._overflow_job() if state.folded else state

    def observer(self, target: JobState, family: str, *labels: str, bounds: Sequence[float]) -> JobState:
        """Return the record in which a duration is counted: that of `__other__` if a new histogram does not fit."""
        # The series of a job's expected histograms were reserved when the job was added.
        known = SEPARATOR.join(labels) in target.distributions.get(family, {})
        expected = family == RUN_DURATION and labels[0] in EXPECTED_RESULTS
        if target.overflow or known or expected:
            return target
        if self._reserve(bucket_lines(family, bounds, self._counting.excluded)):
            return target
        self._count_overflow(family)
        return self._overflow_job()

    def _overflow_job(self) -> JobState:
        key = self._transaction.find(OTHER_JOB_ID)
        if key is not None:
            return self._transaction.job(key)
        job = Job(job_id=OTHER_JOB_ID, name=OTHER, project=OTHER)
        other = self._transaction.add_job(job, OTHER, OTHER, baseline=self._transaction.poll.now, overflow=True)
        seed(other, self._rules.results, has_attempts=self._rules.has_attempts)
        return other

    def step_label(self, state: JobState, step: Step) -> str:
        """Return the label of a step: its name, or `__other__` if its series do not fit."""
        if state.overflow:
            return OTHER
        name = clean(step.name)
        if state.key not in self._steps:
            self._steps[state.key] = set(state.step_names())
        known, folded = self._steps[state.key], state.folded_steps
        if name in known:
            series = SEPARATOR.join((name, step.result or Result.UNKNOWN))
            return name if series in state.counts.get(STEPS, {}) or self._reserve(self._lines(STEPS)) else OTHER
        if name in folded and not self._has_room():
            return OTHER
        lines = step_counters(self._counting.excluded)
        if self._counting.step_histograms:
            lines += bucket_lines(STEP_DURATION, self._counting.step_buckets, self._counting.excluded)
        if self._reserve(lines):
            known.add(name)
            if name in folded:
                folded.remove(name)
            return name
        if name not in folded:
            self._count_overflow(STEPS)
            if len(folded) < MAX_FOLDED_STEPS:
                folded.append(name)
        return OTHER

    def error_type(self, state: JobState, run: Run) -> str:
        """Return the label of a run's error type: `__other__` if its series does not fit."""
        label = clean(run.error_type)
        if label and state.overflow:
            return OTHER
        if not label or label in state.counts.get(ERRORS, {}):
            return label
        if bounded_error_type(state, label) == label and self._reserve(self._lines(ERRORS)):
            return label
        self._count_overflow(ERRORS)
        return OTHER

    def _lines(self, family: str) -> int:
        """Return the number of lines of a new counter series: 0 if its family is not served."""
        return int(family not in self._counting.excluded)

    def _count_overflow(self, family: str) -> None:
        self._transaction.count_for_exporter(OVERFLOW, family)
