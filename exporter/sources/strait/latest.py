"""Keeps the best row of each run that a poll shows."""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime

from exporter.model import Run
from exporter.sources.strait.api import StraitRun, trust


class LatestRows:
    """The best row of each run that a poll has shown. The order of rows does not matter.

    Runs continue while lists are read one after the other, and a response may contain a stale row.
    """

    def __init__(self, to_run: Callable[[StraitRun], Run]) -> None:
        self._to_run = to_run
        self._rows: dict[str, StraitRun] = {}
        self._fresh: dict[str, None] = {}

    def start_poll(self) -> None:
        """Start a poll."""
        self._rows, self._fresh = {}, {}

    def add(self, rows: Iterable[StraitRun]) -> None:
        """Add the rows of a response."""
        for row in rows:
            known = self._rows.get(row.id)
            if known is None or (known != row and trust(self._to_run(row)) > trust(self._to_run(known))):
                self._rows[row.id] = row
                self._fresh[row.id] = None

    def take(self) -> list[StraitRun]:
        """Return the rows that were added or replaced since the last call."""
        rows = [self._rows[run_id] for run_id in self._fresh]
        self._fresh = {}
        return rows

    def row(self, run_id: str) -> StraitRun | None:
        """Return the row of a run; None if this poll has not shown it."""
        return self._rows.get(run_id)

    def of_time(self, time: datetime) -> list[StraitRun]:
        """Return the rows created at a time."""
        return [row for row in self._rows.values() if row.created == time]

    @property
    def rows(self) -> Collection[StraitRun]:
        """Return the best row of each run."""
        return self._rows.values()

    @property
    def ids(self) -> Collection[str]:
        """Return the IDs of the runs that this poll has shown."""
        return self._rows.keys()
