"""Reads and writes scopes and checkpoints. Each has its own row, so that a batch writes only what it changes."""

from collections.abc import Collection, Mapping

import msgspec

from exporter.counting.records import ScopeState, SourceState
from exporter.state.database import Database

ROWS_SINCE = 5
"""The first version of the schema with these rows. Older versions stored scopes in the source's record."""


def read(
    database: Database, version: int, wanted: str = "", values: tuple[object, ...] = ()
) -> tuple[list[SourceState], set[str]]:
    """Return the complete records of sources, ordered by key, and the names of sources to convert.

    An older version stored the scopes of the latter in their records. Their next write must write all scopes and
    checkpoints as rows. `wanted`: an SQL condition on `key`, with its `values`.
    """
    sources = {
        key: msgspec.json.decode(record, type=SourceState)
        for key, record in database.execute(f"SELECT key, record FROM sources WHERE true{wanted} ORDER BY key", values)  # noqa: S608  # constants
    }
    embedded = {source.name for source in sources.values() if source.scopes or source.checkpoints}
    if version >= ROWS_SINCE:
        of = f"WHERE true{wanted.replace('key', 'source')}"
        for key, name, record in database.execute(f"SELECT source, name, record FROM scopes {of}", values):  # noqa: S608  # constants
            sources[key].scopes[name] = msgspec.json.decode(record, type=ScopeState)
        for key, name, note in database.execute(f"SELECT source, name, note FROM notes {of}", values):  # noqa: S608  # constants
            sources[key].checkpoints[name] = note
    return list(sources.values()), embedded


def encoded(source: SourceState) -> bytes:
    """Return a source's record as JSON, without the parts that are stored in rows."""
    return msgspec.json.encode(msgspec.structs.replace(source, scopes={}, checkpoints={}))


def write(
    database: Database,
    key: int,
    source: SourceState,
    scopes: Collection[str] | None,
    checkpoints: Collection[str] | None,
) -> None:
    """Write these scopes and checkpoints of a source, and delete those that it no longer has. None: write all."""
    _write(database, key, ("scopes", "record"), source.scopes, scopes)
    _write(database, key, ("notes", "note"), source.checkpoints, checkpoints)


def _write(
    database: Database,
    key: int,
    target: tuple[str, str],
    values: Mapping[str, ScopeState] | Mapping[str, str],
    names: Collection[str] | None,
) -> None:
    table, column = target
    if names is None:
        database.execute(f"DELETE FROM {table} WHERE source = ?", (key,))  # noqa: S608  # constants
        names = values.keys()
    written = [(name, values[name]) for name in names if name in values]
    database.executemany(
        f"INSERT INTO {table} (source, name, {column}) VALUES (?, ?, ?) "  # noqa: S608  # constants
        f"ON CONFLICT (source, name) DO UPDATE SET {column} = excluded.{column}",
        [(key, name, value if isinstance(value, str) else msgspec.json.encode(value)) for name, value in written],
    )
    ended = [(key, name) for name in names if name not in values]
    database.executemany(f"DELETE FROM {table} WHERE source = ? AND name = ?", ended)  # noqa: S608  # constants
