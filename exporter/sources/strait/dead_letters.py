"""Finds replayed dead letters. A replay keeps the ID and the creation time, and may end before the next poll."""

from collections.abc import Collection, Iterable
from datetime import datetime

from exporter.sources.strait.api import StraitRun


class DeadLetters(dict[str, StraitRun]):
    """The dead letters seen so far, by ID."""

    def compare(
        self,
        rows: Iterable[StraitRun],
        *,
        complete: bool,
        other_states: Collection[str],
        hidden: Collection[datetime],
    ) -> tuple[list[StraitRun], list[str]]:
        """Add the dead letters of a list. Return the runs that died again, and the IDs that have vanished.

        Args:
            rows: The rows of the list, newest first.
            complete: Whether the list ends with these rows. If not, it does not show older dead letters.
            other_states: IDs of runs that other lists show in another state.
            hidden: Creation times for which the list does not show all rows.
        """
        shown = {row.id: row for row in rows}
        oldest = min((created for row in shown.values() if (created := row.created) is not None), default=None)
        vanished = [
            run_id
            for run_id, row in self.items()
            if run_id not in shown
            and run_id not in other_states
            and row.created not in hidden
            and (complete or (oldest is not None and row.created is not None and row.created > oldest))
        ]
        again = [row for run_id, row in shown.items() if self.get(run_id, row) != row]
        for run_id in other_states:
            self.pop(run_id, None)
        self.update(shown)
        return again, vanished
