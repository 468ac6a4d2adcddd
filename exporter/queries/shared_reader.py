"""Reads runs from a state in PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager

from exporter.queries.reader import Reader
from exporter.state.connections import READING, Pool
from exporter.state.database import Database
from exporter.state.postgres import require_schema
from exporter.state.postgres_schema import MIGRATIONS


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
            yield session


def opened(url: str) -> SharedReader:
    """Return a reader with its own connections. Raises StateError if there is no state of this version."""
    pool = Pool(url)
    try:
        require_schema(pool, len(MIGRATIONS))
    except BaseException:
        pool.close()
        raise
    return SharedReader(pool)
