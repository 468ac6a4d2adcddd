"""The state in PostgreSQL, which replicas share.

Records and rows are the same as in a file (`exporter.state.store`). Several processes write, each for its own sources:
see `exporter.state.leases`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import msgspec
import psycopg

from exporter.counting.records import Counted, copy
from exporter.errors import StateError
from exporter.state.connections import COPYING, MIGRATING, READING, Pool, Session
from exporter.state.lease_statements import REVOKE, SINCE, SIZE
from exporter.state.leases import Leases, Written
from exporter.state.lock import LockedStateError, RefusedStateError
from exporter.state.opening import OpenedState
from exporter.state.postgres_schema import ALL_TABLES, MIGRATIONS, NAMES, PUT_RUNS, as_list
from exporter.state.schema import StoredRun, to_row
from exporter.state.sql import LoadedState, SqlStore

CREATE_ATTEMPTS = 5
"""Maximum number of attempts to create the tables. Replicas that start together may disturb each other."""

KEY_BITS = 32
"""A job's key is its source's key, followed by this many bits for the job's number."""

FETCHED = 5000
"""Number of rows per FETCH when a query is streamed."""

RUNNING_REPLICAS = f"""
SELECT name FROM replicas WHERE seen > {SINCE}
UNION SELECT holder FROM leases WHERE holder <> '' AND until > clock_timestamp() ORDER BY 1
"""  # noqa: S608  # constants

# One query sees all tables or none, because one transaction creates them. Several calls of `to_regclass` may see some.
FIND_TABLES = "SELECT relname::text FROM pg_class WHERE relname = ANY(?) AND pg_table_is_visible(oid)"

OWN_TABLES = {"schema_version", "leases", "runs"}
"""Tables that identify the exporter's database. Another program may have a `schema_version`, but not all three."""


class PostgresStore(SqlStore):
    """One open state. Not thread-safe: the ledger holds a lock for each use.

    Args:
        pool: Connections to the database; closed with the store.
        leases: Sources that this process may write; None for all.
        migrates: Whether to create or migrate the tables. Commands must not, because older replicas may be running.

    Raises:
        RefusedStateError: Another version wrote it, or the tables belong to another program.
        StateError: The database does not respond, or the tables cannot be created.
    """

    IN_LIST = "= ANY(?)"
    TRUNCATED = "trunc({})"
    IS_ROW_OF = "ctid = ANY(ARRAY(SELECT ctid FROM {}))"
    PUT_JOB = (
        "INSERT INTO jobs (key, source, job_id, record) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
        "SET source = excluded.source, job_id = excluded.job_id, record = excluded.record"
    )
    PUT_EXPORTER = "UPDATE exporter SET record = ? WHERE id = 1"

    _db: Pool | Session

    def __init__(
        self,
        pool: Pool,
        leases: Leases | None = None,
        *,
        migrates: bool = True,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        super().__init__(pool.name)
        self._pool = self._db = pool
        self._leases = leases
        self._exporter = self._uncommitted = Counted()
        if not migrates:
            require_schema(pool, len(migrations))
        self.is_new = migrates and migrate(pool, migrations)

    def _translate_errors(self) -> AbstractContextManager[None]:
        return self._pool.translate_errors()

    @contextmanager
    def _within(self, transaction: AbstractContextManager[Session]) -> Iterator[Session]:
        """Run the store's statements in a transaction."""
        with transaction as session:
            self._db = session
            try:
                yield session
            finally:
                self._db = self._pool

    def _list(self, values: Collection[Any]) -> list[Any]:
        return list(values)

    def owns(self, source: str) -> bool:
        """Return whether this replica may write for a source."""
        return self._leases is None or source in self._leases.held

    def first_keys(self) -> Mapping[str, int]:
        """Return the first job key of each source, so that two replicas never create the same key."""
        return {name: key << KEY_BITS for name, key in self._sources.items()}

    def load(self, sources: Collection[str] | None = None) -> LoadedState:
        """Return the records and active runs of all sources, or of these, as of one point in time."""
        with self._within(self._pool.transaction(READING)) as session:
            loaded = super().load(sources)
            rows = self._leases.rows(session) if self._leases is not None else []
        found = copy(loaded.exporter)
        loaded.exporter.raise_to(self._exporter)
        loaded.behind = found != loaded.exporter
        self._exporter = copy(loaded.exporter)
        if self._leases is not None:
            self._leases.confirm(row for row in rows if sources is None or row.source in sources)
        return loaded

    @contextmanager
    def transaction(self, *sources: str) -> Iterator[None]:
        """Commit everything that is written inside, or nothing."""
        written: list[Written] = []
        begun = 0.0 if self._leases is None else self._leases.now()
        with self._translate_errors(), self._within(self._pool.transaction()) as session:
            if self._leases is not None and sources:
                written = self._leases.extend(session, sources)
            elif self._leases is not None:
                self._leases.rows(session)
            self._uncommitted = self._exporter
            yield
        self._exporter = self._uncommitted
        if self._leases is not None:
            self._leases.record_commit(written, begun)

    @contextmanager
    def exclusive_transaction(self, *, empty: bool = False) -> Iterator[None]:
        """Read and write in one transaction while no replica can write.

        Raises LockedStateError if a replica is running, RefusedStateError if the state must be `empty` but is not.
        """
        with self._translate_errors(), self._within(self._pool.transaction(COPYING)) as session:
            try:
                session.execute("LOCK TABLE leases, replicas, sources IN SHARE ROW EXCLUSIVE MODE")
            except psycopg.errors.LockNotAvailable as error:
                raise LockedStateError(
                    f"{self.name}: in use by a replica or another copy, or --from and --to name the same database"
                ) from error
            if living := [name for (name,) in session.execute(RUNNING_REPLICAS)]:
                raise LockedStateError(f"{self.name}: in use by {', '.join(living)}; stop all replicas first")
            records = session.execute("SELECT 1 FROM sources UNION ALL SELECT 1 FROM jobs LIMIT 1") if empty else []
            if records:
                raise RefusedStateError(f"{self.name}: already holds a state; name an empty database")
            yield

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        self._db.execute(f"DECLARE everything NO SCROLL CURSOR FOR {query}")
        while rows := self._db.execute(f"FETCH {FETCHED} FROM everything"):
            yield from rows

    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Write rows of a source. Its record must have been written before."""
        key = self._sources[source]
        rows = {run.run.run_id: to_row(run) for run in runs}  # one statement may write a row only once
        if rows:
            columns = zip(NAMES, zip(*rows.values(), strict=True), strict=True)
            self._db.execute(PUT_RUNS, [key, *(as_list(name, values) for name, values in columns)])

    def put_exporter(self, exporter: Counted) -> None:
        """Add this process's new counts to the exporter's counters, which all replicas share."""
        (record,) = self._db.execute("SELECT record FROM exporter WHERE id = 1 FOR UPDATE")[0]
        with self._translate_decode_errors():
            total = msgspec.json.decode(record, type=Counted)
        total.raise_to(self._exporter)
        add_difference(total, exporter, self._exporter)
        super().put_exporter(total)
        self._uncommitted = copy(exporter)

    def size(self) -> int:
        """Return the size of the tables and indexes in bytes. Replicas return the size that one of them measured."""
        if self._leases is not None:
            return max((row.size for row in self._leases.seen.values()), default=0)
        return int(self._all(f"SELECT {SIZE}")[0][0])  # constants

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


@contextmanager
def opened_exclusively(url: str, *, empty: bool) -> Iterator[PostgresStore]:
    """Open a state in one transaction. `empty`: create missing tables, and refuse a state that has records."""
    pool = Pool(url)
    try:
        if empty and not schema_of(pool):
            migrate(pool)
        store = PostgresStore(pool, migrates=False)
        with store.exclusive_transaction(empty=empty):
            yield store
    finally:
        pool.close()


def open_shared(pool: Pool, leases: Leases) -> OpenedState:
    """Open a shared state. If the database does not respond, the result has no store. Raises RefusedStateError."""
    try:
        store = PostgresStore(pool, leases)
        return OpenedState(store=store, loaded=store.load(), cold_start="new" if store.is_new else "")
    except RefusedStateError:
        raise
    except StateError as error:
        return OpenedState(store=None, error=str(error))


def add_difference(total: Counted, counted: Counted, before: Counted) -> None:
    """Add to `total` the difference between `counted` and `before`."""
    for family, series in counted.counts.items():
        for labels, count in series.items():
            known = before.counts.get(family, {}).get(labels)
            added = count.value - (known.value if known is not None else 0.0)
            merged = total.count(family, labels, amount=added)
            merged.released = merged.released or count.released


def migrate(pool: Pool, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> bool:
    """Create or migrate the tables. Return whether they were created."""
    for _ in range(CREATE_ATTEMPTS - 1):
        try:
            return _try_to_migrate(pool, migrations)
        except StateError as error:
            # If two replicas create a table at once, the second one fails, and finds the table in its next attempt.
            if not isinstance(error.__cause__, psycopg.errors.UniqueViolation | psycopg.errors.DuplicateTable):
                raise
    return _try_to_migrate(pool, migrations)


def schema_of(pool: Pool) -> int:
    """Return the version of the tables; 0 for none. Raises RefusedStateError for a database that is not usable."""
    with pool.session() as session:
        encoding = session.execute("SELECT current_setting('server_encoding')")[0][0]
        if encoding != "UTF8":
            raise RefusedStateError(f"{pool.name}: has the encoding {encoding}; create a database with UTF8")
        found = {name for (name,) in session.execute(FIND_TABLES, [[*ALL_TABLES]])}
        if found and not found >= OWN_TABLES:
            raise RefusedStateError(
                f"{pool.name}: holds another program's tables ({', '.join(sorted(found))}); "
                "give the exporter its own database"
            )
        return _version(session) if found else 0


def require_usable(pool: Pool) -> None:
    """Raise StateError if a daemon could not use the database. Changes nothing."""
    with pool.transaction():  # some poolers refuse transactions
        pass
    if (version := schema_of(pool)) > len(MIGRATIONS):
        raise RefusedStateError(newer(pool.name, version, len(MIGRATIONS)))


def require_schema(pool: Pool, known: int) -> None:
    """Raise RefusedStateError unless the tables have the version `known`."""
    found = schema_of(pool)
    if not found:
        raise RefusedStateError(f"{pool.name}: there is no state; run the daemon first")
    if found > known:
        raise RefusedStateError(newer(pool.name, found, known))
    if found < known:
        raise RefusedStateError(
            f"{pool.name}: an older version wrote this state (schema {found}; this version knows {known}). Use that "
            "version, or start a daemon of this version first, which migrates the state"
        )


def _try_to_migrate(pool: Pool, migrations: Sequence[Sequence[str]]) -> bool:
    known = len(migrations)
    if schema_of(pool) == known:
        return False
    with pool.transaction(MIGRATING) as session:
        session.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
        session.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")  # others wait for the end of this transaction
        version = _version(session)
        if version > known:
            raise RefusedStateError(newer(pool.name, version, known))
        if 0 < version < known:
            # Replicas of the older version must not write to the new tables. This transaction ends their leases, and
            # they take no other leases: see `Leases.rows`.
            session.execute("LOCK TABLE leases IN SHARE ROW EXCLUSIVE MODE")
        for statement in chain.from_iterable(migrations[version:]):
            session.execute(statement)
        if version:
            session.execute(REVOKE)  # after the migration: it uses the new columns
        session.execute("DELETE FROM schema_version")
        session.execute("INSERT INTO schema_version VALUES (?)", [known])
    return version == 0


def _version(session: Session) -> int:
    return sum(version for (version,) in session.execute("SELECT version FROM schema_version"))


def newer(name: str, version: int, known: int) -> str:
    """Return the error text for a state that a newer version wrote, with the cure."""
    return (
        f"{name}: a newer version wrote this state (schema {version}; this version knows {known}). "
        "Run that version, or restore the database from before the upgrade"
    )
