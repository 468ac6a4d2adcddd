"""Queries for rows of runs, and for values computed from rows."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

from exporter.counting.classify import CountState
from exporter.counting.latest import Streak, as_last_failure, as_last_run
from exporter.counting.records import LastFailure, LastRun
from exporter.errors import StateError
from exporter.model import FAILING, PastRun, Result, Window
from exporter.state.database import Database
from exporter.state.schema import COLUMNS, ENDED, FAILED, MIGRATIONS, StepState, StoredRun, to_stored

OF_SOURCE = "job IN (SELECT key FROM jobs WHERE source = ?)"
"""SQL condition for the runs of a source. It uses the index by job and end."""

COMPLETED = f"mark <> 0 AND mark IN ({CountState.COUNTED}, {CountState.BASELINE})"
"""SQL condition for completed runs that have not expired. The indexes need the redundant `mark <> 0`."""


class CorruptStateError(StateError):
    """The state is damaged, or the file is not a state."""


class SqlRuns(ABC):
    """Rows of runs in a database. Not thread-safe: the ledger holds its lock during every use."""

    IN_LIST: ClassVar[str]
    """SQL condition that a value is in a list. The list is one parameter: see `_list`."""

    TRUNCATED: ClassVar[str]
    """SQL function that truncates a number to an integer."""

    IS_ROW_OF: ClassVar[str]
    """SQL condition that a row is in the result of `{}`: a table, WHERE and LIMIT."""

    _db: Database

    def __init__(self, name: str) -> None:
        self.name = name
        self._sources: dict[str, int] = {}
        self._embedded: set[str] = set()  # sources whose record on disk still contains their scopes
        self._converted: set[str] = set()  # of these, the sources whose scopes this transaction writes as rows
        self._columns = COLUMNS
        self._version = len(MIGRATIONS)

    @abstractmethod
    def _translate_errors(self) -> AbstractContextManager[None]:
        """Raise errors of the database as StateError."""

    @abstractmethod
    def _list(self, values: Collection[Any]) -> object:
        """Return a list as one parameter."""

    @contextmanager
    def _translate_decode_errors(self) -> Iterator[None]:
        """Raise CorruptStateError for a record that cannot be decoded. Databases do not check what records contain."""
        try:
            yield
        except (ValueError, TypeError, KeyError, RecursionError) as error:  # DecodeErrors are ValueErrors
            raise CorruptStateError(f"{self.name}: a record cannot be understood ({type(error).__name__})") from error

    def runs(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """Return the rows of these runs by ID, without unknown IDs."""
        rows = self._select(
            f"WHERE source = ? AND run_id {self.IN_LIST}", self._sources.get(source), self._list(run_ids)
        )
        return {row.run.run_id: row for row in rows}

    def _select(self, where: str, *arguments: object) -> list[StoredRun]:
        with self._translate_errors():
            rows = list(self._db.execute(f"SELECT {self._columns} FROM runs {where}", arguments))  # noqa: S608  # constants
        with self._translate_decode_errors():
            return [to_stored(row) for row in rows]

    def _all(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._translate_errors():
            return list(self._db.execute(query, arguments))

    def every_run(self) -> Iterator[tuple[int, StoredRun]]:
        """Yield all rows in the order of their writes, each with the key of its source."""
        with self._translate_errors(), self._translate_decode_errors():
            for source, *row in self._stream(f"SELECT source, {self._columns} FROM runs ORDER BY rowid"):  # noqa: S608  # constants
                yield source, to_stored(row)

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query without loading all of them."""
        yield from self._db.execute(query)

    def started_between(self, source: str, window: Window) -> frozenset[str]:
        """Return the IDs of the source's runs that started in a window."""
        # Such a run is active, or it completed after the start of the window. Both conditions use an index.
        query = "SELECT run_id FROM runs WHERE {} AND start >= ? AND start < ?"
        of_active, of_completed = "source = ? AND mark = 0", f"{OF_SOURCE} AND mark <> 0 AND {ENDED} >= ?"
        active = self._all(query.format(of_active), self._sources.get(source), window.start, window.end)
        completed = self._all(query.format(of_completed), source, window.start, window.start, window.end)
        return frozenset(run_id for (run_id,) in (*active, *completed))

    def streak(self, job: int) -> Streak:
        """Return a job's streak, counted from its rows."""
        failing = ", ".join(f"'{result}'" for result in sorted(FAILING))
        success = self._all(
            f"SELECT max({ENDED}) FROM runs WHERE job = ? AND {COMPLETED} AND result = '{Result.SUCCESS}'",  # noqa: S608  # constants
            job,
        )[0][0]
        failures, since = self._all(
            f"SELECT count(*), min({ENDED}) FROM runs "  # noqa: S608  # constants
            f"WHERE job = ? AND {COMPLETED} AND result IN ({failing}) AND {ENDED} > ?",
            job,
            -math.inf if success is None else success,
        )[0]
        return Streak(last_success=success, failures=failures, since=since)

    def latest(self, job: int) -> tuple[LastRun | None, LastFailure | None]:
        """Return the last completed run of a job, and the last failed one."""
        ended = f"{COMPLETED} AND result IS NOT NULL"
        last, failure = self._last(job, ended), self._last(job, f"{ended} AND {FAILED}")
        return (
            None if last is None else as_last_run(last.run, last.ended_at),
            None if failure is None else as_last_failure(failure.run, failure.ended_at),
        )

    def _last(self, job: int, wanted: str) -> StoredRun | None:
        rows = self._select(f"WHERE job = ? AND {wanted} ORDER BY {ENDED} DESC, rowid DESC LIMIT 1", job)
        return rows[0] if rows else None

    def pending_steps(self, source: str, due: float, limit: int) -> list[StoredRun]:
        """Return at most `limit` runs whose steps are due, the most urgent first."""
        # Runs whose requests always fail must not delay others, so runs without a failed request come first. In both
        # groups counted runs precede baseline runs, failed ones precede others, and newer ones precede older ones.
        found: list[StoredRun] = []
        if not self.count_pending_steps(source):
            return found  # most polls end here, after one query instead of five
        for tried, first in (("tries = 0", ""), ("tries > 0", "tries, ")):
            for steps in (StepState.PENDING, StepState.BASELINE):
                # The index has the same order, so that only the returned rows are read.
                found += self._select(
                    f"WHERE source = ? AND steps = {steps} AND steps IN (1, 2) AND mark <> 0 AND due <= ? AND {tried} "
                    f'ORDER BY {first}{FAILED} DESC NULLS LAST, "end" DESC NULLS LAST LIMIT ?',
                    self._sources.get(source),
                    due,
                    limit - len(found),
                )
        return found

    def count_pending_steps(self, source: str, ended: float = math.inf) -> int:
        """Return the number of runs whose steps are pending, without those that ended after the time `ended`."""
        query = (
            f"SELECT count(*) FROM runs WHERE source = ? AND steps IN ({StepState.PENDING}, {StepState.BASELINE}) "  # noqa: S608  # constants
            'AND ("end" IS NULL OR "end" <= ?)'
        )
        return int(self._all(query, self._sources.get(source), ended)[0][0])

    def count_runs(self, source: str) -> dict[int, int]:
        """Return the number of a source's runs by the key of their job."""
        query = "SELECT job, count(*) FROM runs WHERE source = ? GROUP BY job"
        return dict(self._all(query, self._sources.get(source)))

    def past_runs(self, job: int, limit: int) -> list[PastRun]:
        """Return the last completed runs of a job, newest first."""
        columns, wanted = 'start, "end", duration, result', "WHERE job = ? AND mark <> 0"
        rows = self._all(f"SELECT {columns} FROM runs {wanted} ORDER BY {ENDED} DESC LIMIT ?", job, limit)  # noqa: S608  # constants
        return [PastRun(start, end, seconds, Result(word or Result.UNKNOWN)) for start, end, seconds, word in rows]

    def activity(self, job: int, since: float, grain: float) -> list[float]:
        """Return the first completion of a job's runs in each interval of `grain` seconds."""
        ended = f"mark <> 0 AND mark <> {CountState.EXPIRED} AND result IS NOT NULL"
        per_interval = f"GROUP BY {self.TRUNCATED.format(f'{ENDED} / ?')} ORDER BY 1"
        query = f"SELECT min({ENDED}) FROM runs WHERE job = ? AND {ended} AND {ENDED} >= ? {per_interval}"  # noqa: S608  # constants
        return [end for (end,) in self._all(query, job, since, grain)]

    def baseline_runs(self, source: str) -> list[StoredRun]:
        """Return the baseline runs of a source."""
        return self._select(f"WHERE source = ? AND mark = {CountState.BASELINE}", self._sources.get(source))
