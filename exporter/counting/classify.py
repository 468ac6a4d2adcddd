"""Decides what a row of a run means: whether it is new, and whether the run counts now."""

import enum
from collections.abc import Collection

import msgspec

from exporter.model import FUTURE_MARGIN, Disposition, Run

END_TOLERANCE = 1.0
"""Seconds by which a reported end may be too early: some APIs truncate times to whole seconds."""

TRUNCATION_TOLERANCE = 0.001
"""Seconds by which the end of a completion may differ between responses: some have fewer digits."""


class CountState(enum.IntEnum):
    """OPEN: active. COUNTED: completed and counted. BASELINE: never counted. EXPIRED: counted as `unknown`."""

    OPEN = 0
    COUNTED = 1
    BASELINE = 2
    EXPIRED = 3


class RunRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A run, and whether it is counted.

    `earlier`: the ends of earlier completions, if the run was reopened; 0 stands for an unknown end.
    """

    run: Run
    mark: CountState
    earlier: tuple[float, ...] = ()


class Decision(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The meaning of a row.

    Attributes:
        disposition: The row's value of the label `disposition`.
        counts: Whether the run's completion counts now.
        record: The new record of the run; None if it does not change.
    """

    disposition: Disposition
    counts: bool = False
    record: RunRecord | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a run's job and scope when a row is classified.

    Attributes:
        baseline: Unix time. Runs of the job that completed before it are not counted.
        watermark: The scope's watermark before this batch; None for its first batch.
        settled: Whether an earlier poll has read all runs that completed before the baseline. An unknown run must then
            have completed after the baseline.
        included_later: Whether the config excluded the job when its source was first read.
        pruned_before: Runs that completed before this time may have been counted and pruned.
        reopens: Whether a completed run can become active again under its ID.
        max_run_age: How long an active run is followed, in seconds.
    """

    baseline: float
    watermark: float | None
    settled: bool
    reopens: bool
    max_run_age: float
    included_later: bool = False
    pruned_before: float | None = None


def with_plausible_times(run: Run, now: float) -> Run:
    """Return a run without times that are in the future, and with an end that is not before its start."""
    # A run with an end in the future would stay the job's last run until that time. An end before the start comes from
    # another clock. It could be before the baseline although the run started after the baseline.
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
    """Return what a row of a run means. `known`: the record of the run; None if the run is unknown."""
    if known is not None and run.result is not None and known.run.result is not None and run.end is None:
        run = msgspec.structs.replace(run, end=known.run.end)  # this row has no end, but an earlier one had
    if run.after_end:
        run = msgspec.structs.replace(run, after_end=False)
        if known is not None and _has_completed(known):
            return _reopen_for_cleanup(known, run)
    if known is None:
        return _classify_unknown(run, context)
    if known.mark is CountState.OPEN:
        return _classify_active(known, run, context)
    return _classify_completed(known, run, context)


def _has_completed(known: RunRecord) -> bool:
    return known.mark in (CountState.COUNTED, CountState.BASELINE) and known.run.result is not None


def _classify_unknown(run: Run, context: Context) -> Decision:
    earlier = (0.0,) if _was_reopened(run, context) else ()
    if run.result is None:
        too_old = not earlier and age(run, context.baseline) > context.max_run_age
        mark = CountState.BASELINE if too_old else CountState.OPEN
        disposition = Disposition.BASELINE if too_old else Disposition.NEW
        return Decision(disposition=disposition, record=RunRecord(run=run, mark=mark, earlier=earlier))
    if not _is_after_baseline(run, context) or _is_pruned(run, context):
        return Decision(disposition=Disposition.BASELINE, record=RunRecord(run=run, mark=CountState.BASELINE))
    late = context.watermark is not None and run.end is not None and run.end < context.watermark
    disposition = Disposition.LATE if late else Disposition.NEW
    record = RunRecord(run=run, mark=CountState.COUNTED, earlier=earlier)
    return Decision(disposition=disposition, counts=True, record=record)


def _was_reopened(run: Run, context: Context) -> bool:
    """Return whether an unknown run completed before: it is so old that it would be known otherwise."""
    # A row without state and result may be a run of which only the ID was known.
    is_only_id = run.state is None and run.result is None
    if is_only_id or run.created is None or not (context.reopens and context.settled):
        return False
    return run.created < max(context.baseline, context.pruned_before or 0.0)


def _is_after_baseline(run: Run, context: Context) -> bool:
    """Return whether a completed run that was never seen active completed after the baseline."""
    if run.end is not None:
        # The vendor may truncate ends to whole seconds. In a settled scope the run would be known if it had completed
        # before the baseline.
        may_be_cut = context.settled and run.end == int(run.end)
        return run.end > context.baseline - (END_TOLERANCE if may_be_cut else 0.0)
    # Without an end the start decides. A run that started after the baseline also completed after it. A run that
    # started before it would have been seen active at the baseline.
    begun = run.created if run.start is None else run.start
    if begun is not None:
        return begun > context.baseline
    return context.settled


def _is_pruned(run: Run, context: Context) -> bool:
    """Return whether a run ended so long ago that it may have been counted and pruned. It must not count again."""
    ended = run.start if run.end is None else run.end
    return context.pruned_before is not None and ended is not None and ended < context.pruned_before


def _classify_active(known: RunRecord, run: Run, context: Context) -> Decision:
    if run.result is None:
        if run == known.run:
            return Decision(disposition=Disposition.DUPLICATE)
        return Decision(disposition=Disposition.UPDATED, record=_with_run(known, run, CountState.OPEN))
    if is_cleaning_up(known, reopens=context.reopens):
        return Decision(disposition=Disposition.UPDATED, record=RunRecord(run=run, mark=CountState.COUNTED))
    if context.reopens and _contains_end(run.end, known.earlier):
        # This completion was counted before. Either this row is stale, or the one that showed the run as active was. If
        # the run was really reopened, the API will show it as active again.
        earlier = tuple(end for end in known.earlier if not _contains_end(run.end, (end,)))
        return Decision(
            disposition=Disposition.DUPLICATE, record=RunRecord(run=run, mark=CountState.COUNTED, earlier=earlier)
        )
    if run.end is not None and run.end <= context.baseline - END_TOLERANCE:
        # The run completed before the baseline, so the row that showed it as active was stale.
        return Decision(disposition=Disposition.BASELINE, record=_with_run(known, run, CountState.BASELINE))
    return Decision(disposition=Disposition.UPDATED, counts=True, record=_with_run(known, run, CountState.COUNTED))


def _reopen_for_cleanup(known: RunRecord, run: Run) -> Decision:
    """Return the decision for a completed run that is active again to clean up. The cleanup's end must not count."""
    completion = 0.0 if known.run.end is None else known.run.end
    return Decision(
        disposition=Disposition.UPDATED, record=RunRecord(run=run, mark=CountState.OPEN, earlier=(completion,))
    )


def is_cleaning_up(known: RunRecord, *, reopens: bool) -> bool:
    """Return whether an active run has already completed and only cleans up. Its next end is not a completion."""
    return known.mark is CountState.OPEN and bool(known.earlier) and not reopens


def _classify_completed(known: RunRecord, run: Run, context: Context) -> Decision:
    ends = known.earlier if known.run.end is None else (*known.earlier, known.run.end)
    if run.result is None:
        if known.mark is CountState.EXPIRED or known.run.result is None or not context.reopens:
            return Decision(disposition=Disposition.DUPLICATE)
        return Decision(disposition=Disposition.UPDATED, record=RunRecord(run=run, mark=CountState.OPEN, earlier=ends))
    if run == known.run:
        return Decision(disposition=Disposition.DUPLICATE)
    if context.reopens and known.mark is not CountState.EXPIRED and _is_another_completion(known, run, context):
        record = RunRecord(run=run, mark=CountState.COUNTED, earlier=ends)
        return Decision(disposition=Disposition.UPDATED, counts=True, record=record)
    if context.reopens and _contains_end(run.end, known.earlier):
        return Decision(disposition=Disposition.DUPLICATE)
    mark = CountState.COUNTED if known.mark is CountState.EXPIRED else known.mark
    return Decision(disposition=Disposition.UPDATED, record=_with_run(known, run, mark))


def _is_another_completion(known: RunRecord, run: Run, context: Context) -> bool:
    """Return whether a completed run was reopened and has completed again: its end is a new one."""
    if known.run.result is None:
        return False  # it was too old at the baseline, so this is its first completion
    if run.end is None or known.run.end is None or _contains_end(run.end, (*known.earlier, known.run.end)):
        return False
    return run.end > context.baseline


def _contains_end(end: float | None, ends: Collection[float]) -> bool:
    """Return whether an end equals one of `ends`, apart from truncated digits."""
    return end is not None and any(
        abs(end - other) < TRUNCATION_TOLERANCE or (int(end) == int(other) and int(end) in (end, other))
        for other in ends
    )


def count_earlier_completions(record: RunRecord, baseline: float) -> int:
    """Return how many earlier completions of a run are counted. `baseline`: the baseline of its job."""
    return sum(end > baseline for end in record.earlier)


def _with_run(known: RunRecord, run: Run, mark: CountState) -> RunRecord:
    """Return a record with a new row of the run and the known ends of earlier completions."""
    return RunRecord(run=run, mark=mark, earlier=known.earlier)


def origin(run: Run) -> float | None:
    """Return the time from which an active run's age counts: its start, or the later of creation and planned start."""
    if run.start is not None:
        return run.start
    known = [timestamp for timestamp in (run.created, run.scheduled) if timestamp is not None]
    return max(known, default=None)


def age(run: Run, now: float) -> float:
    """Return the seconds since a run's origin; 0 if that is unknown."""
    begun = origin(run)
    return 0.0 if begun is None else now - begun
