"""Keeps the best row of each run that a poll shows."""

from collections.abc import Callable, Iterable
from datetime import datetime

from exporter.model import Run
from exporter.sources.rest import best_row
from exporter.sources.strait.api import StraitRun


class LatestRows(dict[str, StraitRun]):
    """The best row of each run that a poll has shown, by run ID. The order of rows does not matter.

    Runs continue while lists are read one after the other, and a response may contain a stale row.
    """

    def __init__(self, to_run: Callable[[StraitRun], Run]) -> None:
        super().__init__()
        self._to_run = to_run
        self._fresh: dict[str, StraitRun] = {}

    def add(self, rows: Iterable[StraitRun]) -> None:
        """Add the rows of a response."""
        for row in rows:
            known = self.get(row.id)
            if known is None or (known != row and best_row((row, known), self._to_run) is row):
                self[row.id] = self._fresh[row.id] = row

    def take(self) -> list[StraitRun]:
        """Return the rows that were added or replaced since the last call."""
        rows, self._fresh = list(self._fresh.values()), {}
        return rows

    def created_at(self, time: datetime) -> list[StraitRun]:
        """Return the rows of runs created at a time."""
        return [row for row in self.values() if row.created == time]
