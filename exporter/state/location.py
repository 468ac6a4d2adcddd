"""The location of a state: a file or a database. The database's driver is imported only if it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, util
from pathlib import Path

from exporter.errors import StateError
from exporter.state.opening import problem_of_state
from exporter.state.sql import SqlStore
from exporter.state.store import Store

SCHEMES = ("postgresql://", "postgres://")


def problem_of(path: Path, url: str | None) -> str:
    """Return why the location cannot be used for a state; "" if it can. Changes nothing."""
    return problem_of_state(path) if url is None else problem_of_url(url)


def problem_of_url(url: str) -> str:
    """Return why a URL cannot name a database; "" if it can. The text does not contain the URL or its password."""
    if not url.startswith(SCHEMES):
        return "must begin with postgresql://"
    if util.find_spec("psycopg") is None or util.find_spec("psycopg_pool") is None:
        return "needs the driver of PostgreSQL: pip install 'jobrun-exporter[postgres]'"
    return str(import_module("exporter.state.connections").problem_of_url(url))


@contextmanager
def opened_for_reading(path: Path, url: str | None) -> Iterator[SqlStore | None]:
    """Open a state for reading while daemons may write it; None if it does not exist. Raises StateError."""
    if url is None and not path.exists():
        yield None
        return
    if reason := "" if url is None else problem_of_url(url):
        raise StateError(f"state.url {reason}")
    store: SqlStore = Store(path, read_only=True) if url is None else _shared(url)
    try:
        yield store
    finally:
        store.close()


def _shared(url: str) -> SqlStore:
    pool = import_module("exporter.state.connections").Pool(url)
    try:
        store: SqlStore = import_module("exporter.state.postgres").PostgresStore(pool, migrates=False)
    except BaseException:
        pool.close()
        raise
    return store
