"""Reads runs from a state in PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from exporter.queries.reader import Reader
from exporter.state.connections import READING, Found, Pool, Session
from exporter.state.database import Database
from exporter.state.postgres import require_schema
from exporter.state.postgres_schema import MIGRATIONS

IN_JSON_LIST = "IN (SELECT value FROM json_each(?))"
"""SQLite's condition that a value is in a JSON list."""


class SharedReader(Reader):
    """Reads the state that replicas share. Thread-safe: each query has its own consistent view."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.complete = True

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    @contextmanager
    def _view(self) -> Iterator[Database]:
        with self._pool.transaction(READING) as session:
            yield _Translator(session)


class _Translator:
    """Runs statements of SQLite in PostgreSQL."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Found:
        """Run a statement."""
        in_array = "= ANY(ARRAY(SELECT json_array_elements_text(?::json)::bigint))"
        return self._session.execute(query.replace(IN_JSON_LIST, in_array), values)

    def executemany(self, query: str, rows: Any, /) -> None:  # noqa: ANN401  # values of many types
        """Run a statement for each row of values."""
        self._session.executemany(query, rows)


def opened(url: str) -> SharedReader:
    """Return a reader with its own connections. Raises StateError if there is no state of this version."""
    pool = Pool(url)
    try:
        require_schema(pool, len(MIGRATIONS))
    except BaseException:
        pool.close()
        raise
    return SharedReader(pool)
