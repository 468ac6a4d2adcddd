"""Reads a page of the list of all runs: active runs first, then completed ones, newest first.

The list merges *streams*, one per source and result, or one per job. Each stream is sorted by an index, so the cost of
a page does not depend on the number of runs.
"""

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from exporter.counting.classify import CountState
from exporter.model import Result
from exporter.queries.filters import RunQuery
from exporter.state.database import Database
from exporter.state.schema import COLUMNS, ENDED, StoredRun, to_stored

FEW_JOBS = 100
"""Maximum number of jobs that get one stream each. For more jobs, the streams of their sources are filtered."""


class Place(msgspec.Struct, frozen=True):
    """A run's place in the list. `at`: its end; its start if it is active. `source`: key of its source."""

    open: bool
    at: float
    source: int
    run_id: str


class RunSelection(msgspec.Struct, frozen=True, kw_only=True):
    """Selects runs by a query. `sources`, `jobs`: names of sources and keys of jobs that fit it; None for any."""

    query: RunQuery = RunQuery()
    sources: Collection[str] | None = None
    jobs: Collection[int] | None = None


class ListedRun(msgspec.Struct, frozen=True):
    """A run and its place."""

    place: Place
    row: StoredRun


class _Stream(msgspec.Struct, frozen=True):
    """Rows that one index sorts."""

    open: bool
    source: int
    where: str
    arguments: tuple[object, ...]

    @property
    def at(self) -> str:
        """Return the SQL expression that the rows are sorted by."""
        return "origin" if self.open else ENDED


def list_runs(database: Database, selection: RunSelection, limit: int, after: Place | None) -> list[ListedRun]:
    """Return at most `limit` runs that come after a place in the list; without `after` the first ones."""
    sources = database.execute("SELECT key, name FROM sources")
    keys = [key for key, name in sources if selection.sources is None or name in selection.sources]
    streams = [*_active_streams(keys, selection), *_completed_streams(database, keys, selection)]
    remaining = [stream for stream in streams if after is None or stream.open <= after.open]
    rows = [_rows(database, stream, selection, after, limit) for stream in remaining]
    return list(itertools.islice(heapq.merge(*rows, key=_sort_key, reverse=True), limit))


def _active_streams(keys: Iterable[int], selection: RunSelection) -> Iterator[_Stream]:
    if selection.query.result is None and selection.jobs != frozenset():
        for key in keys:
            yield _Stream(True, key, f"source = ? AND mark = 0{_in_jobs(selection.jobs)}", (key,))


def _completed_streams(database: Database, keys: Collection[int], selection: RunSelection) -> Iterator[_Stream]:
    if selection.query.state is not None:
        return
    if selection.jobs is not None and len(selection.jobs) <= FEW_JOBS:
        for job in selection.jobs:
            for (key,) in database.execute("SELECT source FROM runs WHERE job = ? AND mark <> 0 LIMIT 1", (job,)):
                if key in keys:
                    yield _Stream(False, key, "job = ? AND mark <> 0", (job,))
        return
    # The index sorts by result first, so each result needs its own stream. Expired runs have no result.
    wanted = selection.query.result
    for key, result in itertools.product(keys, (*Result, None) if wanted is None else (wanted,)):
        of_result, value = ("result IS NULL", ()) if result is None else ("result = ?", (result.value,))
        where = f"source = ? AND {of_result} AND mark <> 0{_in_jobs(selection.jobs)}"
        yield _Stream(False, key, where, (key, *value))


def _in_jobs(jobs: Collection[int] | None) -> str:
    return "" if jobs is None else f" AND job IN ({', '.join(map(str, sorted(jobs)))})"


def _rows(
    database: Database, stream: _Stream, selection: RunSelection, after: Place | None, limit: int
) -> Iterator[ListedRun]:
    # A generator decodes only the rows that the merge takes.
    query = selection.query
    filters = {
        "run_id = ?": query.run_id or None,
        "result = ?": query.result and query.result.value,
        "state = ?": query.state and query.state.value,
        f"{stream.at} >= ?": query.after,
        f"{stream.at} < ?": query.before,
    }
    given = {condition: value for condition, value in filters.items() if value is not None}
    conditions, arguments = [stream.where, *given], [*stream.arguments, *given.values()]
    if after is not None and after.open == stream.open:
        condition, more = _after(stream, after)
        conditions.append(condition)
        arguments += more
    statement = (
        f"SELECT {COLUMNS} FROM runs WHERE {' AND '.join(conditions)} "  # noqa: S608  # constants and numbers
        f"ORDER BY {stream.at} DESC, run_id DESC LIMIT ?"
    )
    for row in database.execute(statement, (*arguments, limit)):
        yield _listed(stream.source, row)


def _after(stream: _Stream, place: Place) -> tuple[str, Sequence[object]]:
    # As in `_sort_key`: the time is earlier, or it is the same and the source or the run ID is smaller.
    if stream.source < place.source:
        return f"{stream.at} <= ?", (place.at,)
    if stream.source > place.source:
        return f"{stream.at} < ?", (place.at,)
    return f"{stream.at} <= ? AND ({stream.at} < ? OR run_id < ?)", (place.at, place.at, place.run_id)


def _sort_key(found: ListedRun) -> tuple[bool, float, int, str]:
    return msgspec.structs.astuple(found.place)


def _listed(source: int, columns: Sequence[Any]) -> ListedRun:
    row = to_stored(columns)
    run, is_open = row.run, row.mark is CountState.OPEN
    at = row.origin if is_open else row.ended_at
    return ListedRun(Place(is_open, at, source, run.run_id), row)
