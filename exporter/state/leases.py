"""Leases: the right of a replica to write for a source. The database has one row per source.

Safety never depends on time. The first statement of each transaction updates the lease. It finds the row only if
holder, fence and version still match the records in memory. Time, by the database's clock, only decides when another
replica may take over.
"""

import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf

import msgspec

from exporter.errors import StateError
from exporter.state import lease_statements as sql
from exporter.state.connections import Pool, Session
from exporter.state.lease_row import NEW_IN, LeaseRow, as_lease
from exporter.state.lease_statements import LONGEST_SILENCE
from exporter.state.postgres_schema import HISTORY, MIGRATIONS

RENEWAL = 5.0
"""Seconds between two renewals."""

Written = tuple[str, int, float]
"""A source, its new version, and the time of the write by the database's clock."""

RequestAges = Callable[[str], Sequence[float]]
"""Returns the age in seconds of each request that still uses the budget of a source's credential."""


class LeaseLostError(StateError):
    """This replica may not write for a source, or its records in memory differ from the state."""


class SupersededError(StateError):
    """A newer version has migrated the state. This version must neither read nor write it."""


class Held(msgspec.Struct):
    """A lease that this replica has.

    Attributes:
        fence: How often the holder changed.
        version: Version of the records in memory.
        renewed: Last renewal, by `boottime`.
        recorded: When request ages were last recorded, by `boottime`.
    """

    fence: int
    version: int
    renewed: float
    recorded: float = -inf


class Leases:
    """The leases of one replica. Thread-safe, but call `extend` and `record_commit` only under the ledger's lock.

    Args:
        pool: Connections to the database.
        holder: Name of this replica. Each process has another name, also after a restart.
        boottime: A clock that also counts while the machine is suspended, in seconds.
        schema: The version of the tables that this process knows.
    """

    def __init__(self, pool: Pool, holder: str, boottime: Callable[[], float], schema: int = len(MIGRATIONS)) -> None:
        self.holder = holder
        self._schema = schema
        self._pool = pool
        self._boottime = boottime
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._rewound: set[str] = set()
        self._doubtful: set[str] = set()
        self._history = ""
        self.seen: dict[str, LeaseRow] = {}
        """The lease of each source when its records were last loaded or written."""

    # --- what this replica has ---

    @property
    def held(self) -> frozenset[str]:
        """Return the sources whose leases this replica has, as far as it knows."""
        with self._lock:
            return frozenset(self._fresh())

    def _fresh(self) -> dict[str, Held]:
        since = self._boottime() - LONGEST_SILENCE
        return {source: held for source, held in self._held.items() if held.renewed > since}

    def versions(self) -> dict[str, int]:
        """Return the versions of the records in memory, for the sources of this replica."""
        with self._lock:
            return {source: held.version for source, held in self._fresh().items()}

    def now(self) -> float:
        """Return the current time of `boottime`, in seconds."""
        return self._boottime()

    def rewound(self) -> set[str]:
        """Return the sources whose version fell since the last call."""
        with self._lock:
            found, self._rewound = self._rewound, set()
            return found

    @property
    def doubtful(self) -> frozenset[str]:
        """Return the sources whose records in memory may lack commits."""
        with self._lock:
            return frozenset(self._doubtful)

    def trust(self, sources: Collection[str]) -> None:
        """Record that the records of these sources are complete again."""
        with self._lock:
            self._doubtful.difference_update(sources)

    def drop(self, sources: Collection[str]) -> None:
        """Drop leases without a request to the database."""
        with self._lock:
            for source in sources:
                self._held.pop(source, None)

    # --- in a transaction ---

    def extend(self, session: Session, sources: Collection[str]) -> list[Written]:
        """Run the first statement of a transaction. Return the argument of `record_commit`.

        Raises LeaseLostError if this replica may not write for one of the sources.
        """
        with self._lock:
            fresh = self._fresh()
        mine = {source: fresh[source] for source in sorted(sources) if source in fresh}
        if missing := sorted(set(sources) - mine.keys()):
            raise LeaseLostError(f"{self._pool.name}: this replica no longer has the lease of {', '.join(missing)}")
        fences, versions = [held.fence for held in mine.values()], [held.version for held in mine.values()]
        found = session.execute(
            sql.EXTEND, [secrets.randbits(62), [*mine], fences, versions, self.holder, self._history]
        )
        if len(found) < len(mine):
            lost = sorted(mine.keys() - {source for source, _, _ in found})
            raise LeaseLostError(f"{self._pool.name}: another replica has changed {', '.join(lost)}")
        return [(source, version, float(at)) for source, version, at in found]

    def record_commit(self, written: Iterable[Written], begun: float) -> None:
        """Record a commit. It has also renewed the leases. `begun`: start of the transaction, by `boottime`."""
        with self._lock:
            for source, version, at in written:
                if source in self._held:
                    self._held[source].version = version
                    self._held[source].renewed = max(begun, self._held[source].renewed)
                if source in self.seen:
                    self.seen[source] = msgspec.structs.replace(
                        self.seen[source], version=version, stamp=-1, committed=at
                    )

    def confirm(self, rows: Iterable[LeaseRow]) -> None:
        """Update the leases from rows that were loaded together with the records. Drop the lost ones."""
        # A lease whose version fell is dropped too, because the source's poller may remember lost commits.
        rows = list(rows)
        self._check_history(rows)
        with self._lock:
            for row in rows:
                back = row.version < self.seen.get(row.source, row).version
                if back:
                    self._rewound.add(row.source)
                if back or row.rewound:
                    self._doubtful.add(row.source)
                self.seen[row.source] = row
                held = self._held.get(row.source)
                if held is None:
                    continue
                if (row.holder, row.fence) == (self.holder, held.fence) and row.version >= held.version:
                    held.version = row.version
                else:
                    del self._held[row.source]
                    if row.version < held.version:
                        self._rewound.add(row.source)

    # --- between transactions ---

    def create(self, sources: Iterable[tuple[str, bytes]]) -> None:
        """Create the records and leases of sources that the database does not have. `sources`: names and records."""
        rows = list(sources)
        with self._pool.transaction() as session:
            session.execute(
                "INSERT INTO sources (name, record) SELECT * FROM unnest(?::text[], ?::bytea[]) "
                "AS new (name, record) ORDER BY name ON CONFLICT DO NOTHING",
                [[name for name, _ in rows], [record for _, record in rows]],
            )
            session.execute(  # for all, because a copied state has no leases
                f"INSERT INTO leases (source, history) SELECT name, ? || {HISTORY} FROM sources "  # noqa: S608  # constants
                "ORDER BY name ON CONFLICT DO NOTHING",
                [NEW_IN],
            )

    def read_all(self) -> list[LeaseRow]:
        """Return all leases. Raises StateError if this process must no longer use the database."""
        with self._pool.session() as session:
            rows = self.rows(session)
            self._check_history(rows)
            if rows and not rows[0].noticed:
                session.execute(sql.NOTICE)
        return rows

    def rows(self, session: Session) -> list[LeaseRow]:
        """Return all leases as a transaction sees them. Raises SupersededError."""
        rows = [as_lease(row) for row in session.execute(sql.READ_ALL)]
        if rows and rows[0].schema != self._schema:
            self.drop(self.held)
            raise SupersededError(
                f"{self._pool.name}: a newer version has migrated the state to schema {rows[0].schema}, this version "
                f"knows {self._schema}; upgrade or stop this replica"
            )
        return rows

    def _check_history(self, rows: Sequence[LeaseRow]) -> None:
        """Raise StateError if another server has replaced this primary, which still accepts writes."""
        with self._lock:
            found = max((row.current for row in rows), default=self._history)
            if found < self._history:
                self._pool.reconnect()  # a new connection may reach the new primary
                raise StateError(f"{self._pool.name}: a former primary answers; its writes would be lost")
            self._history = found

    def renew(self, request_ages: RequestAges) -> None:
        """Renew the leases that are due, and those whose credential was used. Raises StateError."""
        # The recorded request ages show the next holder how much budget is left. A locked row is renewed later, or by
        # the transaction that locks it.
        begun = self._boottime()
        with self._lock:
            fresh = self._fresh()
        ages = {source: request_ages(source) for source in fresh}
        due = sorted(
            source
            for source, held in fresh.items()
            if begun - held.renewed >= RENEWAL or min(ages[source], default=inf) < begun - held.recorded
        )
        renewed: dict[str, int] = {}
        if due:
            with self._pool.transaction() as session:
                recorded = [_as_json(ages[source]) for source in due]
                renewed = dict(session.execute(sql.RENEW, [due, recorded, due, self.holder]))
        with self._lock:
            for source, held in self._held.items():
                if renewed.get(source) == held.fence:
                    held.renewed, held.recorded = max(begun, held.renewed), begun

    def take(self, sources: Collection[str]) -> list[float] | None:
        """Take all these leases or none. Return the request ages of the former holder; None if one is not free."""
        begun = self._boottime()
        with self._pool.transaction() as session:
            if len(session.execute(sql.LOCK_FREE, [sorted(sources), self._history, self._schema])) < len(sources):
                return None
            taken = session.execute(sql.TAKE, [self.holder, sorted(sources)])
        recorded = []
        with self._lock:
            for source, fence, version, ages, elapsed in taken:
                self._held[source] = Held(fence, version, begun)
                recorded.append([age + float(elapsed) for age in msgspec.json.decode(ages, type=list[float])])
        return max(recorded, key=len)  # a new source of the group has none

    def hand_back(self, sources: Collection[str], request_ages: RequestAges) -> None:
        """Free the leases of these sources at once, for other replicas. Their polls must have ended."""
        with self._lock:
            mine = {source: self._held.pop(source).fence for source in sorted(sources) if source in self._held}
        if mine:
            ages = [_as_json(request_ages(source)) for source in mine]
            with self._pool.transaction() as session:
                session.execute(sql.HAND_BACK, [[*mine], [*mine.values()], ages, self.holder])

    def record_history(self, rows: Sequence[LeaseRow], history: str) -> None:
        """Record that polls have read these sources completely in this history, so that no commit is missing.

        Sources that have lost commits since their row was read are skipped.
        """
        if rows:
            columns = [[row.source for row in rows], [row.fence for row in rows], [row.version for row in rows]]
            with self._pool.transaction() as session:
                session.execute(sql.RECORD_HISTORY, [history, *columns, self.holder])

    def mark_rewound(self, sources: Collection[str]) -> list[str]:
        """Record that the database lost commits of these sources. Return those for which this was not recorded yet."""
        with self._pool.transaction() as session:
            return [source for (source,) in session.execute(sql.MARK_REWOUND, [sorted(sources)])]

    # --- other replicas ---

    def beat(self, served: Mapping[str, int]) -> list[dict[str, int]]:
        """Record that this replica is running, and the version of each source that scrapes have read from it.

        Return the versions that scrapes have read from each running replica.
        """
        with self._pool.transaction() as session:
            session.execute(sql.BEAT, [self.holder, msgspec.json.encode(served)])
            rows = session.execute(f"SELECT served FROM replicas WHERE seen > {sql.SINCE}")  # noqa: S608  # constants
            session.execute("DELETE FROM replicas WHERE seen < clock_timestamp() - interval '1 h'")
            session.execute(sql.MEASURE)
        return [msgspec.json.decode(record, type=dict[str, int]) for (record,) in rows]

    def leave(self) -> None:
        """Record that this replica stops."""
        with self._pool.session() as session:
            session.execute("DELETE FROM replicas WHERE name = ?", [self.holder])


def _as_json(request_ages: Sequence[float]) -> str:
    return msgspec.json.encode([round(age, 2) for age in request_ages]).decode()
