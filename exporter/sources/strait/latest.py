"""Choose one row per run from all rows that a poll has shown."""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime

from exporter.model import Run
from exporter.sources.strait.api import RunRow, trust


class LatestRows:
    """The best row of each run that a poll has shown, in any order.

    Lists are asked for one after the other while runs go on, and an answer may hold a stale row next to the right one.

    Args:
        to_run: Converts a row to a run.
    """

    def __init__(self, to_run: Callable[[RunRow], Run]) -> None:
        self._to_run = to_run
        self._rows: dict[str, RunRow] = {}
        self._fresh: dict[str, None] = {}

    def begin(self) -> None:
        """Start a poll."""
        self._rows, self._fresh = {}, {}

    def add(self, rows: Iterable[RunRow]) -> None:
        """Add rows of an answer."""
        for row in rows:
            known = self._rows.get(row.id)
            if known is None or (known != row and trust(self._to_run(row)) > trust(self._to_run(known))):
                self._rows[row.id] = row
                self._fresh[row.id] = None

    def take(self) -> list[RunRow]:
        """Return the rows that were added, or took the place of another, since the last call."""
        rows = [self._rows[run_id] for run_id in self._fresh]
        self._fresh = {}
        return rows

    def row(self, run_id: str) -> RunRow | None:
        """Return the row of a run, None if this poll has not shown it."""
        return self._rows.get(run_id)

    def of_time(self, time: datetime) -> list[RunRow]:
        """Return the rows created at a time."""
        return [row for row in self._rows.values() if row.created == time]

    @property
    def rows(self) -> Collection[RunRow]:
        """Return the best row of each run."""
        return self._rows.values()

    @property
    def ids(self) -> Collection[str]:
        """Return the IDs of the runs that this poll has shown."""
        return self._rows.keys()
