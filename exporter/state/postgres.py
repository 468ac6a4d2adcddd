"""The state in PostgreSQL, which replicas share.

Records and rows are the same as in a file (`exporter.state.store`). Several processes write, each for its own sources:
see `exporter.state.leases`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec
import psycopg

from exporter.counting.records import Counted, copy
from exporter.errors import StateError
from exporter.state.connections import READING, Found, Pool, Session
from exporter.state.leases import LOOK, SIZE, Leases, Written, as_row
from exporter.state.lock import RefusedStateError
from exporter.state.opening import OpenedState
from exporter.state.postgres_schema import MIGRATIONS, NAMES, PUT_RUNS, as_list
from exporter.state.schema import StoredRun, to_row
from exporter.state.sql import LoadedState, SqlStore
from exporter.state.sql_runs import CorruptStateError

CREATE_ATTEMPTS = 5
"""Attempts to find or create the tables, because replicas that start together create them together."""

KEY_BITS = 32
"""Bits of a job's key that number the jobs of a source. The higher bits are the source's key."""


class PooledDatabase:
    """Runs statements in the current transaction, or each on its own connection of the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._session: Session | None = None

    @contextmanager
    def within(self, transaction: AbstractContextManager[Session]) -> Iterator[Session]:
        """Run statements in a transaction."""
        with transaction as session:
            self._session = session
            try:
                yield session
            finally:
                self._session = None

    def execute(self, query: str, values: Any = (), /) -> Found:  # noqa: ANN401  # values of many types
        """Run a statement."""
        if self._session is not None:
            return self._session.execute(query, values)
        with self._pool.session() as session:
            return session.execute(query, values)

    def executemany(self, query: str, rows: Any, /) -> None:  # noqa: ANN401  # as above
        """Run a statement for each row of values, in the transaction in progress."""
        if self._session is None:
            raise StateError("nothing is written outside of a transaction")
        self._session.executemany(query, rows)


class PostgresStore(SqlStore):
    """One open state. Not thread-safe: the ledger holds a lock for each use.

    Args:
        pool: Connections to the database; closed with the store.
        leases: Sources that this process may write; None for all.

    Raises:
        RefusedStateError: A newer version wrote it, or the tables belong to another program.
        StateError: The database does not respond, or the tables cannot be created.
    """

    AMONG = "= ANY(?)"
    WHOLE = "trunc({})"
    SOME_ROWS = "ctid = ANY(ARRAY(SELECT ctid FROM {}))"
    PUT_JOB = (
        "INSERT INTO jobs (key, source, job_id, record) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
        "SET source = excluded.source, job_id = excluded.job_id, record = excluded.record"
    )
    PUT_EXPORTER = "UPDATE exporter SET record = ? WHERE id = 1"

    _db: PooledDatabase

    def __init__(self, pool: Pool, leases: Leases | None = None) -> None:
        super().__init__(pool.name)
        self._pool = pool
        self._leases = leases
        self._db = PooledDatabase(pool)
        self._exporter = self._written = Counted()
        self.is_new = migrated(pool)
        """Whether the state is empty."""

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with self._pool.explained():
            try:
                yield
            except msgspec.DecodeError as error:
                raise CorruptStateError(f"{self.name}: {error}") from error

    def _list(self, values: Collection[Any]) -> list[Any]:
        return list(values)

    def owns(self, source: str) -> bool:
        """Return whether this replica may write for a source."""
        return self._leases is None or source in self._leases.held

    def first_keys(self) -> Mapping[str, int]:
        """Return the first job key of each source: two replicas must never create the same key."""
        return {name: key << KEY_BITS for name, key in self._sources.items()} if self._leases is not None else {}

    def load(self, sources: Collection[str] | None = None) -> LoadedState:
        """Return all records and active runs, or those of some sources, from one point in time."""
        with self._db.within(self._pool.transaction(READING)) as session:
            loaded = super().load(sources)
            rows = [as_row(row) for row in session.execute(LOOK)] if self._leases is not None else []
        loaded.exporter.lift(self._exporter)
        self._exporter = copy(loaded.exporter)
        if self._leases is not None:
            self._leases.confirm(row for row in rows if sources is None or row.source in sources)
        return loaded

    @contextmanager
    def transaction(self, *sources: str) -> Iterator[None]:
        """Commit everything that is written inside, or nothing."""
        written: list[Written] = []
        begun = 0.0 if self._leases is None else self._leases.now()
        with self._explained(), self._db.within(self._pool.transaction()) as session:
            if self._leases is not None and sources:
                written = self._leases.extend(session, sources)
            self._written = self._exporter
            yield
        self._exporter = self._written
        if self._leases is not None:
            self._leases.committed(written, begun)

    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Write rows of a source whose record has been put."""
        key = self._sources[source]
        rows = {run.run.run_id: to_row(run) for run in runs}  # one statement may write a row only once
        if rows:
            columns = zip(NAMES, zip(*rows.values(), strict=True), strict=True)
            self._db.execute(PUT_RUNS, [key, *(as_list(name, values) for name, values in columns)])

    def put_exporter(self, exporter: Counted) -> None:
        """Add the counts of this process to the exporter's counters, as other processes do."""
        (record,) = self._db.execute("SELECT record FROM exporter WHERE id = 1 FOR UPDATE")[0]
        total = msgspec.json.decode(record, type=Counted)
        total.lift(self._exporter)
        merge(total, exporter, self._exporter)
        super().put_exporter(total)
        self._written = copy(exporter)

    def size(self) -> int:
        """Return the size of the tables and their indexes in bytes; for replicas, as one of them measured it."""
        if self._leases is not None:
            return max((row.size for row in self._leases.seen.values()), default=0)
        return int(self._all(f"SELECT {SIZE}")[0][0])  # constants

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def open_shared(pool: Pool, leases: Leases) -> OpenedState:
    """Open a shared state. If the database does not respond, a later attempt opens it.

    Raises RefusedStateError if another program or a newer version wrote it.
    """
    try:
        store = PostgresStore(pool, leases)
        return OpenedState(store=store, loaded=store.load(), cold="new" if store.is_new else "")
    except RefusedStateError:
        raise
    except StateError as error:
        nothing = LoadedState(sources=[], jobs=[], open_runs=[], exporter=Counted())
        return OpenedState(store=None, loaded=nothing, error=str(error))


def merge(total: Counted, counted: Counted, before: Counted) -> None:
    """Add to a total what was counted since `before`."""
    for family, series in counted.counts.items():
        for labels, count in series.items():
            known = before.counts.get(family, {}).get(labels)
            added = count.value - (known.value if known is not None else 0.0)
            merged = total.count(family, labels, amount=added)
            merged.released = merged.released or count.released


def migrated(pool: Pool) -> bool:
    """Create or migrate the tables; return whether there were none."""
    for _ in range(CREATE_ATTEMPTS - 1):
        try:
            return _migrate(pool)
        except StateError as error:
            # If two replicas create the same table at once, the second one finds it in its next attempt.
            if not isinstance(error.__cause__, psycopg.errors.UniqueViolation | psycopg.errors.DuplicateTable):
                raise
    return _migrate(pool)


def _migrate(pool: Pool) -> bool:
    with pool.transaction() as session:
        found = session.execute("SELECT to_regclass('schema_version') IS NOT NULL, to_regclass('runs') IS NOT NULL")
        has_version, has_runs = found[0]
        if has_runs and not has_version:
            raise RefusedStateError(f"{pool.name}: holds another program's tables; give the exporter its own database")
        session.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
        version = _version(session)
        if version > len(MIGRATIONS):
            raise RefusedStateError(newer(pool.name, version))
        for statement in (each for script in MIGRATIONS[version:] for each in script):
            session.execute(statement)
        if version < len(MIGRATIONS):
            session.execute("UPDATE schema_version SET version = ?", [len(MIGRATIONS)])
    return version == 0


def _version(session: Session) -> int:
    """Return the version of the tables. Others that read it wait until this transaction has ended."""
    session.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")
    rows = session.execute("SELECT version FROM schema_version")
    if not rows:
        session.execute("INSERT INTO schema_version VALUES (0)")
        return 0
    return int(rows[0][0])


def newer(name: str, version: int) -> str:
    """Return the error that a newer version wrote the state, and what to do."""
    return (
        f"{name}: schema {version}, this version knows {len(MIGRATIONS)}: a newer version has written this state. "
        "Run that version, or restore the database from before the upgrade"
    )
