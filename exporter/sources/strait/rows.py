"""The rows of one poll: the best row of each run, and what has changed among dead letters."""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime

from exporter.model import Run
from exporter.sources.rest import best_row
from exporter.sources.strait.api import StraitRun


class LatestRows(dict[str, StraitRun]):
    """The best row of each run that a poll has shown, by run ID. The order of rows does not matter.

    A run may appear on several lists, because it continues while they are read, and a response may be stale.
    """

    def __init__(self, to_run: Callable[[StraitRun], Run]) -> None:
        super().__init__()
        self._to_run = to_run
        self._new: dict[str, StraitRun] = {}

    def add(self, rows: Iterable[StraitRun]) -> None:
        """Add the rows of a response."""
        for row in rows:
            known = self.get(row.id)
            if known is None or (known != row and best_row((row, known), self._to_run) is row):
                self[row.id] = self._new[row.id] = row

    def take_new(self) -> list[StraitRun]:
        """Return the rows that were added or replaced since the last call."""
        rows, self._new = list(self._new.values()), {}
        return rows

    def created_at(self, time: datetime) -> list[StraitRun]:
        """Return the rows of runs created at a time."""
        return [row for row in self.values() if row.created == time]


def update_dead_letters(
    dead_letters: dict[str, StraitRun],
    rows: Iterable[StraitRun],
    *,
    complete: bool,
    other_states: Collection[str],
    bursts: Collection[datetime],
) -> tuple[list[StraitRun], list[str]]:
    """Add the rows of the list of dead letters. Return the runs that died again, and the IDs that have vanished.

    A replay keeps a run's ID and creation time, and may end between two polls. Then only its row in this list changes.

    Args:
        dead_letters: The dead letters seen so far, by ID.
        rows: The rows of the list, newest first.
        complete: Whether the list ends with these rows. If not, it does not show older dead letters.
        other_states: IDs of runs that other lists show in another state.
        bursts: Creation times for which the list does not show all rows.
    """
    shown = {row.id: row for row in rows}
    oldest = min((created for row in shown.values() if (created := row.created) is not None), default=None)
    vanished = [
        run_id
        for run_id, row in dead_letters.items()
        if run_id not in shown
        and run_id not in other_states
        and row.created not in bursts
        and (complete or (oldest is not None and row.created is not None and row.created > oldest))
    ]
    died_again = [row for run_id, row in shown.items() if dead_letters.get(run_id, row) != row]
    for run_id in other_states:
        dead_letters.pop(run_id, None)
    dead_letters.update(shown)
    return died_again, vanished
