"""Decides what a row of a run means, and adds it to a job's record.

`classify` decides what a row means, given what is known of the run. The `count_…` functions add to counters, the
`note_…` functions update last-run gauges. Nothing here does I/O.
"""

import enum
from collections.abc import Collection, Mapping, Sequence

import msgspec

from exporter.counting.records import OTHER, Exemplar, JobState, LastFailure, LastRun, LastSteps, clean, oldest
from exporter.model import FAILING, FUTURE_MARGIN, Disposition, Result, Run, Step

END_TOLERANCE = 1.0
"""Seconds by which a reported end may be too early, because some APIs truncate times to whole seconds."""

CUT = 0.001
"""Seconds by which one completion's end may differ between answers that have more digits and fewer."""

MAX_ERROR_TYPES = 50
"""Error types per job. Further ones are counted under `__other__`."""


class CountState(enum.IntEnum):
    """How a run is recorded: active, counted, before the baseline, or expired."""

    OPEN = 0
    COUNTED = 1
    BASELINE = 2
    EXPIRED = 3


class RunRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What the state knows about a run. `earlier`: earlier completions of a reopened run that were counted."""

    run: Run
    mark: CountState
    earlier: tuple[float, ...] = ()


class Decision(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a row of a run means. `keep`: the new record of the run; None if it does not change."""

    disposition: Disposition
    counts: bool = False
    keep: RunRecord | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a classification depends on besides the run.

    Attributes:
        baseline: Unix time; runs of the job that completed before it are not counted.
        watermark: The scope's watermark before this batch; None at the first.
        settled: Whether every run that had completed at the baseline must have been shown by now. A completed run that
            was never seen then completed after the baseline, so it counts.
        included_later: Whether the job was excluded by the config when its source was first read.
        forgotten: Runs that completed before this time may have been counted and pruned.
        reopens: Whether a completed run can become active again under its ID.
        max_run_age: How long an active run is followed, in seconds.
    """

    baseline: float
    watermark: float | None
    settled: bool
    reopens: bool
    max_run_age: float
    included_later: bool = False
    forgotten: float | None = None


def with_plausible_times(run: Run, now: float) -> Run:
    """Return a run without times that are in the future, and with an end that is not before its start."""
    # An end in the future would be the job's last for as long as that takes, and no later run would show. An end
    # before the start, by another clock, could be before the baseline although the run came after it.
    latest = now + FUTURE_MARGIN
    start = None if run.start is not None and run.start > latest else run.start
    end = None if run.end is not None and run.end > latest else run.end
    if start is not None and end is not None:
        end = max(start, end)
    if (start, end) == (run.start, run.end):
        return run
    duration = run.duration if (start is None) == (end is None) else None
    return msgspec.structs.replace(run, start=start, end=end, duration=duration)


def classify(known: RunRecord | None, run: Run, context: Context) -> Decision:
    """Return what a row of a run means, given what is known of the run."""
    if known is not None and run.result is not None and known.run.result is not None and run.end is None:
        run = msgspec.structs.replace(run, end=known.run.end)  # this row does not say when
    if run.after_end:
        run = msgspec.structs.replace(run, after_end=False)
        if (
            known is not None
            and known.mark in (CountState.COUNTED, CountState.BASELINE)
            and known.run.result is not None
        ):
            return _cleaning_up(known, run)
    if known is None:
        return _first_seen(run, context)
    if known.mark is CountState.OPEN:
        return _of_open(known, run, context)
    return _of_ended(known, run, context)


def _first_seen(run: Run, context: Context) -> Decision:
    if run.result is None:
        too_old = age(run, context.baseline) > context.max_run_age
        mark = CountState.BASELINE if too_old else CountState.OPEN
        disposition = Disposition.BASELINE if too_old else Disposition.NEW
        return Decision(disposition=disposition, keep=RunRecord(run=run, mark=mark))
    if not _after_baseline(run, context) or _forgotten(run, context):
        return Decision(disposition=Disposition.BASELINE, keep=RunRecord(run=run, mark=CountState.BASELINE))
    late = context.watermark is not None and run.end is not None and run.end < context.watermark
    disposition = Disposition.LATE if late else Disposition.NEW
    return Decision(disposition=disposition, counts=True, keep=RunRecord(run=run, mark=CountState.COUNTED))


def _after_baseline(run: Run, context: Context) -> bool:
    """Return whether a run that was never seen active completed after the baseline."""
    # Without an end the start decides. A run that started after the baseline also completed after it. A run that
    # started before it would have been shown as active at the baseline.
    if run.end is not None:
        # The vendor may truncate ends to whole seconds: a run that the baseline did not show ended a moment later.
        may_be_cut = context.settled and run.end == int(run.end)
        return run.end > context.baseline - (END_TOLERANCE if may_be_cut else 0.0)
    begun = run.created if run.start is None else run.start
    if begun is not None:
        return begun > context.baseline
    return context.settled


def _forgotten(run: Run, context: Context) -> bool:
    """Return whether a run ended so long ago that its row may have been pruned: it must not count again."""
    ended = run.start if run.end is None else run.end
    return context.forgotten is not None and ended is not None and ended < context.forgotten


def _of_open(known: RunRecord, run: Run, context: Context) -> Decision:
    if run.result is None:
        if run == known.run:
            return Decision(disposition=Disposition.DUPLICATE)
        return Decision(disposition=Disposition.UPDATED, keep=_with(known, run, CountState.OPEN))
    if is_cleaning_up(known, reopens=context.reopens):
        return Decision(disposition=Disposition.UPDATED, keep=RunRecord(run=run, mark=CountState.COUNTED))
    if context.reopens and _is_one_of(run.end, known.earlier):
        # Either the response that showed it as active was stale, or this one is. This completion was counted before,
        # so it must not count again. A run that was really reopened will be shown as active again.
        earlier = tuple(end for end in known.earlier if not _is_one_of(run.end, (end,)))
        return Decision(
            disposition=Disposition.DUPLICATE, keep=RunRecord(run=run, mark=CountState.COUNTED, earlier=earlier)
        )
    if run.end is not None and run.end <= context.baseline - END_TOLERANCE:
        # The row that showed it as active was stale.
        return Decision(disposition=Disposition.BASELINE, keep=_with(known, run, CountState.BASELINE))
    return Decision(disposition=Disposition.UPDATED, counts=True, keep=_with(known, run, CountState.COUNTED))


def _cleaning_up(known: RunRecord, run: Run) -> Decision:
    """Return the decision for a completed run that is active again only to clean up: its next end does not count."""
    completion = 0.0 if known.run.end is None else known.run.end
    return Decision(
        disposition=Disposition.UPDATED, keep=RunRecord(run=run, mark=CountState.OPEN, earlier=(completion,))
    )


def is_cleaning_up(known: RunRecord, *, reopens: bool) -> bool:
    """Return whether an active run completed before, and its next end is not another completion."""
    return known.mark is CountState.OPEN and bool(known.earlier) and not reopens


def _of_ended(known: RunRecord, run: Run, context: Context) -> Decision:
    if run.result is None:
        if known.mark is CountState.EXPIRED or known.run.result is None or not context.reopens:
            return Decision(disposition=Disposition.DUPLICATE)
        ends = known.earlier if known.run.end is None else (*known.earlier, known.run.end)
        return Decision(disposition=Disposition.UPDATED, keep=RunRecord(run=run, mark=CountState.OPEN, earlier=ends))
    if run == known.run:
        return Decision(disposition=Disposition.DUPLICATE)
    if context.reopens and known.mark is not CountState.EXPIRED and _another_ending(known, run, context):
        ends = known.earlier if known.run.end is None else (*known.earlier, known.run.end)
        keep = RunRecord(run=run, mark=CountState.COUNTED, earlier=ends)
        return Decision(disposition=Disposition.UPDATED, counts=True, keep=keep)
    if context.reopens and _is_one_of(run.end, known.earlier):
        return Decision(disposition=Disposition.DUPLICATE)
    mark = CountState.COUNTED if known.mark is CountState.EXPIRED else known.mark
    return Decision(disposition=Disposition.UPDATED, keep=_with(known, run, mark))


def _another_ending(known: RunRecord, run: Run, context: Context) -> bool:
    """Return whether a run that can be reopened completed again, which its end shows."""
    if known.run.result is None:
        return False  # too old at the baseline: this is its first completion
    if run.end is None or known.run.end is None or _is_one_of(run.end, (*known.earlier, known.run.end)):
        return False
    return run.end > context.baseline


def _is_one_of(end: float | None, ends: Collection[float]) -> bool:
    """Return whether an end is one of these, or the same one cut to milliseconds or to whole seconds."""
    return end is not None and any(
        abs(end - other) < CUT or (int(end) == int(other) and int(end) in (end, other)) for other in ends
    )


def _with(known: RunRecord, run: Run, mark: CountState) -> RunRecord:
    return RunRecord(run=run, mark=mark, earlier=known.earlier)


def origin(run: Run) -> float | None:
    """Return the time from which an active run's age counts: its start, else its creation or planned start."""
    if run.start is not None:
        return run.start
    known = [timestamp for timestamp in (run.created, run.scheduled) if timestamp is not None]
    return max(known, default=None)


def age(run: Run, now: float) -> float:
    """Return the seconds since a run's origin; 0 if that is unknown."""
    begun = origin(run)
    return 0.0 if begun is None else now - begun


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How runs are counted: the bounds of histograms, in seconds, and whether new series are served as 0 first."""

    run_buckets: tuple[float, ...]
    step_buckets: tuple[float, ...]
    zero_first: bool = True


def seed(job: JobState, results: Collection[Result], *, attempts: bool) -> None:
    """Create the series of a job that are known before its first run, at 0."""
    for result in results:
        job.count("jobrun_runs_total", result, amount=0)
    if attempts:
        job.count("jobrun_run_retries_total", amount=0)
        job.count("jobrun_runs_recovered_total", amount=0)


def count_ending(job: JobState, run: Run, *, attempts: bool) -> None:
    """Add one completed run to a job's counters."""
    result = run.result or Result.UNKNOWN
    exemplar = None if run.end is None else Exemplar(run.run_id, 1.0, run.end)
    counter = job.count("jobrun_runs_total", result)
    if exemplar and (counter.exemplar is None or counter.exemplar.timestamp <= exemplar.timestamp):
        counter.exemplar = exemplar
    if attempts:
        job.count("jobrun_run_retries_total", amount=run.retries)
        job.count("jobrun_runs_recovered_total", amount=int(run.recovered))
    if result in FAILING and run.error_type:
        job.count("jobrun_run_errors_total", bounded(job, run.error_type))


def count_expired(job: JobState) -> None:
    """Add one expired run to a job's counters, as `unknown` and without a duration."""
    job.count("jobrun_runs_total", Result.UNKNOWN)


def as_counted(record: RunRecord, error_type: str) -> Run:
    """Return a completed run with the label of its error, and without the queue time of an earlier completion."""
    # Queue time counts from creation. A reopened run was created for its first completion, so it has none.
    waited = None if record.earlier else record.run.queue_duration
    return msgspec.structs.replace(record.run, error_type=error_type, queue_duration=waited)


def observe_duration(job: JobState, run: Run, rules: Rules) -> None:
    """Add how long a run took to a job's histograms."""
    result, duration = run.result or Result.UNKNOWN, run.duration or 0.0
    exemplar = None if run.end is None else Exemplar(run.run_id, duration, run.end)
    durations = job.distribution("jobrun_run_duration_seconds", result, bounds=rules.run_buckets)
    durations.observe(duration, exemplar)


def observe_queue(job: JobState, run: Run, rules: Rules) -> None:
    """Add how long a run waited to a job's histograms."""
    queue = job.distribution("jobrun_run_queue_duration_seconds", bounds=rules.run_buckets)
    queue.observe(run.queue_duration or 0.0)


def bounded(job: JobState, error_type: str) -> str:
    """Return the error type, or `__other__` if the job has too many."""
    known = job.counts.get("jobrun_run_errors_total", {})
    return error_type if error_type in known or len(known) < MAX_ERROR_TYPES else OTHER


class Streak(msgspec.Struct, frozen=True, kw_only=True):
    """A job's streak, counted from its runs: its last success, the failed runs after it, the end of the first."""

    last_success: float | None
    failures: int
    since: float | None


class Latest(msgspec.Struct, frozen=True, kw_only=True):
    """The run of a job that ended last, and the failed run that ended last, as its rows have them."""

    last_run: LastRun | None = None
    last_failure: LastFailure | None = None


def note_ending(job: JobState, run: Run, seen: float) -> bool:
    """Update the last-run gauges with a newly completed run, which may be older than runs seen before.

    `seen`, when the completion was first seen, replaces an unknown end. Returns True if the run is a success that ended
    before known failures: the streak must then be recounted from the runs.
    """
    result = run.result or Result.UNKNOWN
    order = seen if run.end is None else run.end
    _note_last(job, run, order)
    if result in FAILING and (job.last_success is None or order > job.last_success):
        job.streak += 1
        job.failing_since = order if job.failing_since is None else min(job.failing_since, order)
    if result is not Result.SUCCESS or (job.last_success is not None and order <= job.last_success):
        return False
    job.last_success = order
    before_failures = job.last_failure is not None and job.last_failure.order > order
    if not before_failures:
        job.streak, job.failing_since = 0, None
    return before_failures


def note_change(job: JobState, run: Run, seen: float) -> None:
    """Update the last-run gauges after a completed run changed. The caller must then recount the streak."""
    _note_last(job, run, seen if run.end is None else run.end)


def _note_last(job: JobState, run: Run, order: float) -> None:
    result = run.result or Result.UNKNOWN
    if run.start is not None and (job.last_start is None or run.start > job.last_start):
        job.last_start = run.start
    if job.last_run is None or job.last_run.order <= order or job.last_run.run_id == run.run_id:
        job.last_run = as_last_run(run, order)
    last = job.last_failure
    if result in FAILING and (last is None or last.order <= order or last.run_id == run.run_id):
        step = last.failed_step if last and last.run_id == run.run_id else ""
        job.last_failure = as_last_failure(run, order, failed_step=step)


def as_last_run(run: Run, order: float) -> LastRun:
    """Return the gauges of the run that completed last. `order`: its end, or when its completion was first seen."""
    result = run.result or Result.UNKNOWN
    return LastRun(run_id=run.run_id, result=result, order=order, start=run.start, end=run.end, duration=run.duration)


def as_last_failure(run: Run, order: float, *, failed_step: str = "") -> LastFailure:
    """Return the gauges of the failed run that completed last."""
    error_type = clean(run.error_type)
    return LastFailure(run_id=run.run_id, order=order, end=run.end, error_type=error_type, failed_step=failed_step)


def restate(job: JobState, streak: Streak, forgotten: float | None) -> None:
    """Set a recounted streak. Runs that completed before `forgotten` may be pruned and so missing in it."""
    began = job.failing_since if job.last_success is None else job.last_success
    if streak.last_success is None and began is not None and _is_pruned(began, forgotten):
        job.streak = max(job.streak, streak.failures)
        job.failing_since = oldest((job.failing_since, streak.since))
        return
    job.last_success, job.streak, job.failing_since = streak.last_success, streak.failures, streak.since


def correct(job: JobState, latest: Latest, forgotten: float | None) -> None:
    """Set the last-run gauges from a job's rows, after a completed run changed."""
    last, failure = job.last_run, job.last_failure
    if latest.last_run is not None or last is None or not _is_pruned(last.order, forgotten):
        job.last_run = latest.last_run
    if latest.last_failure is not None or failure is None or not _is_pruned(failure.order, forgotten):
        job.last_failure = latest.last_failure
        if failure is not None and job.last_failure is not None and job.last_failure.run_id == failure.run_id:
            job.last_failure = msgspec.structs.replace(job.last_failure, failed_step=failure.failed_step)


def _is_pruned(order: float, forgotten: float | None) -> bool:
    """Return whether a run that completed at this time may be pruned."""
    return forgotten is not None and order < forgotten


def count_steps(
    job: JobState, steps: Sequence[Step], labels: Mapping[str, str], rules: Rules, *, histograms: bool
) -> None:
    """Add the steps of one counted run to a job's counters and histograms.

    `labels` maps each step name to its label: the name itself, or `__other__`.
    """
    for step in steps:
        label = labels[step.name]
        seed_step(job, label)
        job.count("jobrun_steps_total", label, step.result or Result.UNKNOWN)
        if histograms and step.duration is not None and step.result is not None:
            durations = job.distribution("jobrun_step_duration_seconds", label, bounds=rules.step_buckets)
            durations.observe(step.duration)
    failed = root_failure(steps)
    if failed:
        job.count("jobrun_step_root_failures_total", labels[failed])


def seed_step(job: JobState, name: str) -> None:
    """Create the series of a step that are known before it has run, at 0."""
    for result in (Result.SUCCESS, Result.FAILURE):
        job.count("jobrun_steps_total", name, result, amount=0)
    job.count("jobrun_step_root_failures_total", name, amount=0)


def note_steps(job: JobState, run: Run, steps: Sequence[Step], seen: float) -> None:
    """Update the gauges of the steps of a job's latest runs."""
    order = seen if run.end is None else run.end
    if job.last_steps is None or job.last_steps.order <= order:
        results: dict[str, int] = {}
        for step in steps:
            word = (step.result or Result.UNKNOWN).value
            results[word] = results.get(word, 0) + 1
        job.last_steps = LastSteps(run_id=run.run_id, order=order, results=results)
    if job.last_failure is not None and job.last_failure.run_id == run.run_id:
        job.last_failure = msgspec.structs.replace(job.last_failure, failed_step=clean(root_failure(steps)))


def root_failure(steps: Sequence[Step]) -> str:
    """Return the step that failed first, "" if none did."""
    # A failed step with a failed ancestor is a consequence. Among the other failed steps the one that ended first is
    # the root failure; if ends are unknown, the first in the vendor's order.
    by_name = {step.name: step for step in steps}
    roots = [step for step in steps if step.result in FAILING and not _failed_before(step, by_name)]
    if not roots:
        return next((step.name for step in steps if step.result in FAILING), "")
    return min(roots, key=lambda step: float("inf") if step.end is None else step.end).name


def _failed_before(step: Step, by_name: dict[str, Step]) -> bool:
    """Return whether an ancestor failed. A circle in the dependencies ends the search."""
    waiting, seen = list(step.dependencies), {step.name}
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        if by_name[name].result in FAILING:
            return True
        waiting.extend(by_name[name].dependencies)
    return False
