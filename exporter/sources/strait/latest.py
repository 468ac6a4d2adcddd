"""Keeps the best row of each run that a poll shows."""

from collections.abc import Callable, Iterable
from datetime import datetime

from exporter.model import Run
from exporter.sources.strait.api import StraitRun, trust


class LatestRows(dict[str, StraitRun]):
    """The best row of each run that a poll has shown, by run ID. The order of rows does not matter.

    Runs continue while lists are read one after the other, and a response may contain a stale row.
    """

    def __init__(self, to_run: Callable[[StraitRun], Run]) -> None:
        super().__init__()
        self._to_run = to_run
        self._fresh: dict[str, None] = {}

    def start_poll(self) -> None:
        """Start a poll."""
        self.clear()
        self._fresh = {}

    def add(self, rows: Iterable[StraitRun]) -> None:
        """Add the rows of a response."""
        for row in rows:
            known = self.get(row.id)
            if known is None or (known != row and trust(self._to_run(row)) > trust(self._to_run(known))):
                self[row.id] = row
                self._fresh[row.id] = None

    def take(self) -> list[StraitRun]:
        """Return the rows that were added or replaced since the last call."""
        rows = [self[run_id] for run_id in self._fresh]
        self._fresh = {}
        return rows

    def of_time(self, time: datetime) -> list[StraitRun]:
        """Return the rows created at a time."""
        return [row for row in self.values() if row.created == time]
