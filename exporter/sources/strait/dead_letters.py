"""Dead letters that came back: a replay keeps the id and the creation, and may have ended before it is looked for."""

from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec

from exporter.sources.strait.api import RunRow


class Compared(msgspec.Struct, frozen=True):
    """What the list of dead letters says beside the one before: rows that died again, and ids that it lacks."""

    again: list[RunRow]
    vanished: list[str]


class DeadLetters:
    """The dead letters seen so far, as far back as their list has been read."""

    def __init__(self) -> None:
        self._known: dict[str, RunRow] = {}

    def compare(
        self,
        rows: Iterable[RunRow],
        *,
        whole: bool,
        elsewhere: Collection[str],
        hidden: Collection[datetime] = (),
    ) -> Compared:
        """Takes up the newest dead letters, newest creation first.

        Args:
            rows: The rows of the list.
            whole: Whether the list ends with them; else nothing is said about those created before the last.
            elsewhere: Ids that another list has shown in another state.
            hidden: Creation times of which the list does not show all rows.
        """
        shown = {row.id: row for row in rows}
        oldest = min((created for row in shown.values() if (created := row.created) is not None), default=None)
        vanished = [
            run_id
            for run_id, row in self._known.items()
            if run_id not in shown
            and row.created not in hidden
            and (whole or (oldest is not None and row.created is not None and row.created > oldest))
        ]
        again = [row for run_id, row in shown.items() if self._known.get(run_id, row) != row]
        self._known.update(shown)
        for run_id in elsewhere:
            if run_id not in shown:
                self._known.pop(run_id, None)
        return Compared(again, [run_id for run_id in vanished if run_id in self._known])

    def add(self, rows: Iterable[RunRow]) -> None:
        """Add dead letters that were shown elsewhere than in their list."""
        self._known.update((row.id, row) for row in rows)

    def created_at(self, times: Collection[datetime]) -> list[str]:
        """Return the IDs of dead letters created at one of these times."""
        return [run_id for run_id, row in self._known.items() if row.created in times]

    def forget(self, run_id: str) -> None:
        """One of those vanished has been asked for."""
        self._known.pop(run_id, None)
