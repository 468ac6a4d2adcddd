"""Scopes and checkpoints of sources: one row each, so that a batch of one scope writes only what it changes."""

from collections.abc import Collection

import msgspec

from exporter.counting.records import ScopeState, SourceState
from exporter.state.database import Database

ROWS_SINCE = 5
"""The first version of the schema that stores them in rows. Before, they were part of the source's record."""


def read(
    database: Database, version: int, wanted: str = "", values: tuple[object, ...] = ()
) -> tuple[list[SourceState], set[str]]:
    """Return the complete records of all sources in the order of their keys; `wanted`: a condition of their keys.

    Also return the names of sources whose record contains scopes or checkpoints, as older versions wrote
    them. The next write of such a record must write these as rows.
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


def write(database: Database, key: int, source: SourceState, scopes: Collection[str] | None) -> None:
    """Write these scopes of a source, or all. Scopes that it no longer has are deleted."""
    if scopes is None:
        database.execute("DELETE FROM scopes WHERE source = ?", (key,))
    names = source.scopes if scopes is None else scopes
    rows = [(key, name, msgspec.json.encode(source.scopes[name])) for name in names if name in source.scopes]
    database.executemany(
        "INSERT INTO scopes (source, name, record) VALUES (?, ?, ?) "
        "ON CONFLICT (source, name) DO UPDATE SET record = excluded.record",
        rows,
    )
    ended = [(key, name) for name in names if name not in source.scopes]
    database.executemany("DELETE FROM scopes WHERE source = ? AND name = ?", ended)


def write_checkpoints(database: Database, key: int, source: SourceState, checkpoints: Collection[str] | None) -> None:
    """Write these checkpoints of a source, or all. Notes that it no longer has are deleted."""
    if checkpoints is None:
        database.execute("DELETE FROM notes WHERE source = ?", (key,))
    names = source.checkpoints if checkpoints is None else checkpoints
    rows = [(key, name, source.checkpoints[name]) for name in names if name in source.checkpoints]
    database.executemany(
        "INSERT INTO notes (source, name, note) VALUES (?, ?, ?) "
        "ON CONFLICT (source, name) DO UPDATE SET note = excluded.note",
        rows,
    )
    ended = [(key, name) for name in names if name not in source.checkpoints]
    database.executemany("DELETE FROM notes WHERE source = ? AND name = ?", ended)
