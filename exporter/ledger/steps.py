"""Applies the steps of completed runs to a transaction."""

from collections.abc import Sequence

import msgspec

from exporter.counting import counters, latest
from exporter.counting.classify import CountState
from exporter.counting.labels import clean
from exporter.ledger.series_room import SeriesRoom
from exporter.ledger.transaction import Transaction
from exporter.metrics.families import STEPS_LOST
from exporter.model import Step
from exporter.state.schema import StepState, StoredRun

MAX_INCOMPLETE = 4
"""Maximum number of incomplete responses per completed run. Its steps are then counted as they are, or lost."""

MAX_STEP_BACKOFF = 3600.0
"""Maximum wait between two attempts to fetch a run's steps, in seconds."""


def count_steps(transaction: Transaction, room: SeriesRoom, row: StoredRun, steps: Sequence[Step]) -> None:
    """Count the steps of a completed run. If a step is still active, request them again later, at most a few times."""
    if any(step.result is None for step in steps) and row.incomplete + 1 < MAX_INCOMPLETE:
        retry_later(transaction, msgspec.structs.replace(row, incomplete=row.incomplete + 1))
        return
    state = transaction.job(row.job)
    target = room.target(state)
    labels = {step.name: room.step_label(target, step) for step in steps}
    if row.mark is CountState.COUNTED:
        counting = transaction.counting
        counters.count_steps(target, steps, labels, counting.step_buckets if counting.step_histograms else None)
    elif not target.overflow:
        for label in labels.values():
            counters.seed_step(target, label)
    latest.update_last_steps(state, row.run, steps, row.seen)
    results = msgspec.json.encode([[clean(step.name), step.result, step.duration] for step in steps]).decode()
    transaction.runs[row.run.run_id] = msgspec.structs.replace(
        row, steps=StepState.COUNTED, due=None, step_results=results
    )


def lose_steps(transaction: Transaction, row: StoredRun) -> None:
    """Record that the API has no steps of a run. If the run is old, they are lost; otherwise request them again."""
    too_old = row.origin < transaction.poll.now - transaction.rules.reach
    if not too_old and row.incomplete + 1 < MAX_INCOMPLETE:
        retry_later(transaction, msgspec.structs.replace(row, incomplete=row.incomplete + 1))
        return
    transaction.runs[row.run.run_id] = msgspec.structs.replace(row, steps=StepState.LOST, due=None)
    if row.mark is CountState.COUNTED:
        transaction.source.count(STEPS_LOST)


def retry_later(transaction: Transaction, row: StoredRun) -> None:
    """Request a run's steps again later. Each wait is twice as long as the previous one."""
    # The wait begins at the start of the poll. If it began now, it could end just after the next poll.
    wait = min(transaction.rules.poll_interval * 2 ** min(row.tries, 12), MAX_STEP_BACKOFF)
    transaction.runs[row.run.run_id] = msgspec.structs.replace(
        row, tries=row.tries + 1, due=transaction.poll.started + wait
    )
