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
"""Maximum number of incomplete responses per completed run. Then its steps are counted as they are, or are lost."""

MAX_STEP_BACKOFF = 3600.0
"""Maximum wait between two attempts to fetch a run's steps, in seconds."""


class StepWriter:
    """Applies the steps of completed runs to one transaction."""

    def __init__(self, transaction: Transaction, room: SeriesRoom) -> None:
        self._transaction = transaction
        self._room = room
        self._rules = transaction.rules
        self._poll = transaction.poll

    def count(self, row: StoredRun, steps: Sequence[Step]) -> None:
        """Count the steps of a completed run. If one is still active, request them again, at most a few times."""
        if any(step.result is None for step in steps) and row.incomplete + 1 < MAX_INCOMPLETE:
            self.retry_later(msgspec.structs.replace(row, incomplete=row.incomplete + 1))
            return
        state = self._transaction.job(row.job)
        target = self._room.target(state)
        labels = {step.name: self._room.step_label(target, step) for step in steps}
        if row.mark is CountState.COUNTED:
            counting = self._transaction.counting
            counters.count_steps(target, steps, labels, counting.step_buckets if counting.step_histograms else None)
        elif not target.overflow:
            for label in labels.values():
                counters.seed_step(target, label)
        latest.note_steps(state, row.run, steps, row.seen)
        results = [[clean(step.name), step.result, step.duration] for step in steps]
        self._transaction.runs[row.run.run_id] = msgspec.structs.replace(
            row,
            steps=StepState.COUNTED,
            due=None,
            step_results=msgspec.json.encode(results).decode(),
        )

    def missing(self, row: StoredRun) -> None:
        """Record that the API has no steps of a run. If the run is old, they are lost; otherwise request them again."""
        too_old = row.origin < self._poll.now - self._rules.reach
        if not too_old and row.incomplete + 1 < MAX_INCOMPLETE:
            self.retry_later(msgspec.structs.replace(row, incomplete=row.incomplete + 1))
            return
        self._transaction.runs[row.run.run_id] = msgspec.structs.replace(row, steps=StepState.LOST, due=None)
        if row.mark is CountState.COUNTED:
            self._transaction.source.count(STEPS_LOST)

    def retry_later(self, row: StoredRun) -> None:
        """Request a run's steps again later, less and less often."""
        # The wait counts from the start of the poll. If it counted from now, the next poll could come too early for it.
        wait = min(self._rules.poll_interval * 2 ** min(row.tries, 12), MAX_STEP_BACKOFF)
        self._transaction.runs[row.run.run_id] = msgspec.structs.replace(
            row, tries=row.tries + 1, due=self._poll.started + wait
        )
