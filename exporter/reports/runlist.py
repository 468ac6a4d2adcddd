"""The list of all runs: open ones first, then the ended by end, newest first; and any part of it.

It is made of *streams*, one a source and result or one a job, each in the order of an index; so a part costs the same
however many runs there are.
"""

import heapq
import itertools
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

from exporter.counting.classify import CountState
from exporter.model import Result, State
from exporter.state.schema import COLUMNS, StoredRun, to_stored

FEW_JOBS = 100
"""Up to so many jobs each is read by itself; of more, the runs of all jobs are gone through."""

ENDED = 'coalesce("end", seen)'
"""When a run ended, or was seen to have: as in the indices."""


class Place(msgspec.Struct, frozen=True):
    """A run's place in a list. `at`: when it ended, or began if it is open; `source`: the key of its source."""

    open: bool
    at: float
    source: int
    run_id: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs; None for any. `jobs`: their keys."""

    sources: Collection[str] | None = None
    jobs: Collection[int] | None = None
    result: Result | None = None
    state: State | None = None
    run_id: str | None = None
    after: float | None = None
    before: float | None = None


class Found(msgspec.Struct, frozen=True):
    """A run that was found."""

    source: str
    place: Place
    row: StoredRun


class _Stream(msgspec.Struct, frozen=True):
    """Rows in the order of one index. `at`: the expression by which they are ordered."""

    open: bool
    source: int
    at: str
    where: str
    arguments: tuple[object, ...]


class _Part(msgspec.Struct, frozen=True):
    """The part of the list that is asked for. `names`: the wanted sources by their keys."""

    names: dict[int, str]
    wanted: Wanted
    after: Place | None
    limit: int


def part(database: sqlite3.Connection, wanted: Wanted, limit: int, after: Place | None) -> list[Found]:
    """So many runs at most, from the first one behind a place."""
    asked = _Part(_names(database, wanted.sources), wanted, after, limit)
    if wanted.run_id is not None:
        return list(_by_id(database, asked))
    streams = [*_open_streams(asked), *_ended_streams(database, asked)]
    behind = [stream for stream in streams if after is None or stream.open <= after.open]
    rows = [_rows(database, asked, stream) for stream in behind]
    return list(itertools.islice(heapq.merge(*rows, key=_order, reverse=True), limit))


def _names(database: sqlite3.Connection, wanted: Collection[str] | None) -> dict[int, str]:
    """The wanted sources by their keys."""
    rows = database.execute("SELECT key, name FROM sources")
    return {key: name for key, name in rows if wanted is None or name in wanted}


def _by_id(database: sqlite3.Connection, asked: _Part) -> Iterator[Found]:
    """The runs of one id, a source each."""
    query = f"SELECT {COLUMNS} FROM runs WHERE source = ? AND run_id = ?"  # noqa: S608  # constants
    for key in sorted(asked.names):
        row = database.execute(query, (key, asked.wanted.run_id)).fetchone()
        if row is not None and fits(found := _found(asked.names, key, row), asked.wanted):
            yield found


def fits(found: Found, wanted: Wanted) -> bool:
    """Whether a run, sources and ids aside, is one of those that are wanted."""
    run, at = found.row.known.run, found.place.at
    return (
        (wanted.jobs is None or found.row.job in wanted.jobs)
        and (wanted.result is None or (run.result is wanted.result and not found.place.open))
        and (wanted.state is None or (run.state is wanted.state and found.place.open))
        and (wanted.after is None or at >= wanted.after)
        and (wanted.before is None or at < wanted.before)
    )


def _open_streams(asked: _Part) -> Iterator[_Stream]:
    wanted = asked.wanted
    if wanted.result is not None:
        return
    jobs, arguments = _among(wanted.jobs)
    state, more = ("", ()) if wanted.state is None else (" AND state = ?", (wanted.state.value,))
    for key in asked.names:
        yield _Stream(True, key, "origin", f"source = ? AND mark = 0{jobs}{state}", (key, *arguments, *more))


def _ended_streams(database: sqlite3.Connection, asked: _Part) -> Iterator[_Stream]:
    wanted = asked.wanted
    if wanted.state is not None:
        return
    result, more = ("", ()) if wanted.result is None else (" AND result = ?", (wanted.result.value,))
    if wanted.jobs is not None and len(wanted.jobs) <= FEW_JOBS:
        for job in wanted.jobs:
            row = database.execute("SELECT source FROM runs WHERE job = ? AND mark <> 0 LIMIT 1", (job,)).fetchone()
            if row is not None and row[0] in asked.names:
                yield _Stream(False, row[0], ENDED, f"job = ? AND mark <> 0{result}", (job, *more))
        return
    jobs, arguments = _among(wanted.jobs)
    for key in asked.names:
        for word in (*Result, None) if wanted.result is None else (wanted.result,):
            value = None if word is None else word.value
            yield _Stream(
                False, key, ENDED, f"source = ? AND result IS ? AND mark <> 0{jobs}", (key, value, *arguments)
            )


def _among(jobs: Collection[int] | None) -> tuple[str, tuple[object, ...]]:
    if jobs is None:
        return "", ()
    return " AND job IN (SELECT value FROM json_each(?))", (msgspec.json.encode(sorted(jobs)).decode(),)


def _rows(database: sqlite3.Connection, asked: _Part, stream: _Stream) -> Iterator[Found]:
    """The rows of a stream behind a place, one after another: those of which nothing comes to be shown are not read."""
    wanted, after = asked.wanted, asked.after
    conditions, arguments = [stream.where], list(stream.arguments)
    for condition, bound in ((">= ?", wanted.after), ("< ?", wanted.before)):
        if bound is not None:
            conditions.append(f"{stream.at} {condition}")
            arguments.append(bound)
    if after is not None and after.open == stream.open:
        condition, more = _behind(stream, after)
        conditions.append(condition)
        arguments += more
    query = (
        f"SELECT {COLUMNS} FROM runs WHERE {' AND '.join(conditions)} "  # noqa: S608  # constants
        f"ORDER BY {stream.at} DESC, run_id DESC LIMIT ?"
    )
    for row in database.execute(query, (*arguments, asked.limit)):
        yield _found(asked.names, stream.source, row)


def _behind(stream: _Stream, place: Place) -> tuple[str, Sequence[object]]:
    """The condition for what comes behind a place: earlier, or at the same instant of a source or run named before."""
    if stream.source < place.source:
        return f"{stream.at} <= ?", (place.at,)
    if stream.source > place.source:
        return f"{stream.at} < ?", (place.at,)
    return f"{stream.at} <= ? AND ({stream.at} < ? OR run_id < ?)", (place.at, place.at, place.run_id)


def _order(found: Found) -> tuple[bool, float, int, str]:
    place = found.place
    return place.open, place.at, place.source, place.run_id


def _found(names: dict[int, str], source: int, columns: Sequence[Any]) -> Found:
    row = to_stored(columns)
    run, is_open = row.known.run, row.known.mark is CountState.OPEN
    at = row.origin if is_open else row.seen if run.end is None else run.end
    return Found(names[source], Place(is_open, at, source, run.run_id), row)
