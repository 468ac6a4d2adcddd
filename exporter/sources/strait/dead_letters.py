"""Finds replayed dead letters. A replay keeps the ID and the creation time, and may end before the next poll."""

from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec

from exporter.sources.strait.api import StraitRun


class DeadLetterChanges(msgspec.Struct, frozen=True):
    """Changes since the last list of dead letters: rows that died again, and IDs that have vanished."""

    again: list[StraitRun]
    vanished: list[str]


class DeadLetters(dict[str, StraitRun]):
    """The dead letters seen so far, by ID."""

    def compare(
        self,
        rows: Iterable[StraitRun],
        *,
        complete: bool,
        other_states: Collection[str],
        hidden: Collection[datetime] = (),
    ) -> DeadLetterChanges:
        """Add the newest dead letters, newest first, and return the changes.

        Args:
            rows: The rows of the list.
            complete: Whether the list ends with these rows. If not, older dead letters are not on it.
            other_states: IDs of runs that other lists show in another state.
            hidden: Creation times of which the list does not show all rows.
        """
        shown = {row.id: row for row in rows}
        oldest = min((created for row in shown.values() if (created := row.created) is not None), default=None)
        vanished = [
            run_id
            for run_id, row in self.items()
            if run_id not in shown
            and row.created not in hidden
            and (complete or (oldest is not None and row.created is not None and row.created > oldest))
        ]
        again = [row for run_id, row in shown.items() if self.get(run_id, row) != row]
        self.update(shown)
        for run_id in other_states:
            if run_id not in shown:
                self.pop(run_id, None)
        return DeadLetterChanges(again, [run_id for run_id in vanished if run_id in self])

    def add(self, rows: Iterable[StraitRun]) -> None:
        """Add dead letters that another list has shown."""
        self.update((row.id, row) for row in rows)

    def created_at(self, times: Collection[datetime]) -> list[str]:
        """Return the IDs of dead letters created at one of these times."""
        return [run_id for run_id, row in self.items() if row.created in times]
