"""Who may write for which source: a lease per source in the database that holds the state.

Safety never depends on time: the first statement of every transaction writes the lease, and finds it only if its
holder, its fence and its version are still those on which this replica judged. Time decides only when others may take
over, and there only the database's clock counts.
"""

import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from exporter.errors import StateError
from exporter.state.connections import Pool, Session

TTL = 15.0
"""Seconds after which a lease that was not renewed may be taken by another replica."""

RENEWAL = 5.0
"""Seconds between two renewals."""

LONGEST_SILENCE = 10.0
"""Seconds without a renewal after which a replica gives its leases up by itself, before others may take them."""

SINCE = f"clock_timestamp() - interval '{TTL} s'"

UNTIL = f"clock_timestamp() + interval '{TTL} s'"

EXTEND = f"""
UPDATE leases SET version = leases.version + 1, stamp = ?, until = {UNTIL}, committed = clock_timestamp()
FROM unnest(?::text[], ?::bigint[], ?::bigint[]) AS mine (source, fence, version)
WHERE leases.source = mine.source AND leases.holder = ? AND leases.fence = mine.fence
AND leases.version = mine.version RETURNING leases.source, leases.version
"""  # noqa: S608  # constants

RENEW = f"""
UPDATE leases SET until = {UNTIL} WHERE source IN
(SELECT source FROM leases WHERE source = ANY(?) AND holder = ? ORDER BY source FOR UPDATE SKIP LOCKED)
RETURNING source, fence
"""  # noqa: S608  # constants

FREE = """
SELECT source FROM leases WHERE source = ANY(?) AND (until < clock_timestamp() OR holder = '')
ORDER BY source FOR UPDATE SKIP LOCKED
"""

TAKE = f"""
UPDATE leases SET holder = ?, fence = fence + 1, until = {UNTIL} WHERE source = ANY(?) RETURNING source, fence, version
"""  # noqa: S608  # constants

HAND_BACK = """
UPDATE leases SET holder = '', until = clock_timestamp() FROM unnest(?::text[], ?::bigint[]) AS mine (source, fence)
WHERE leases.source = mine.source AND holder = ? AND leases.fence = mine.fence
"""

LOOK = f"""
SELECT source, holder, fence, version, stamp, holder = '' OR until < clock_timestamp(), history,
extract(epoch FROM committed), left(pg_walfile_name(pg_current_wal_lsn()), 8),
(SELECT count(*) FROM replicas WHERE seen > {SINCE}) FROM leases ORDER BY source
"""  # noqa: S608  # constants


BEAT = """
INSERT INTO replicas (name, seen, served) VALUES (?, clock_timestamp(), ?)
ON CONFLICT (name) DO UPDATE SET seen = clock_timestamp(), served = excluded.served
"""


class LeaseLostError(StateError):
    """This replica may not write for a source, or judged on records that are not those of the state."""


class Row(msgspec.Struct, frozen=True):
    """A lease as it is in the database.

    Attributes:
        source: The source's name.
        holder: The replica that has it, "" if none.
        fence: Counts its changes of hands.
        version: Counts the transactions of its source.
        stamp: A random number of the last one: after a failover another transaction may have the same version.
        free: Whether it may be taken.
        history: The history of the database in which the source was last read completely, "" for none.
        committed: When the source was last written, by the database's clock.
        current: The history of the database now.
        replicas: How many replicas live.
    """

    source: str
    holder: str
    fence: int
    version: int
    stamp: int
    free: bool
    history: str
    committed: float | None
    current: str
    replicas: int

    @property
    def content(self) -> tuple[int, int]:
        """What changes with each transaction of its source."""
        return self.version, self.stamp

    @property
    def rewound(self) -> bool:
        """Return whether commits that were served may be missing: no poll was complete since the history changed."""
        return self.history not in {self.current, NEW}


NEW = "new"
"""The history of a source that was never read, of which nothing can be missing."""


class Held(msgspec.Struct):
    """A lease that this replica has. `version`: that of the records in memory; `renewed`: when, by `boottime`."""

    fence: int
    version: int
    renewed: float


class Leases:
    """The leases of one replica. Thread-safe, but for `extend` and what follows it: the ledger's lock is held there.

    Args:
        pool: Connections to the database.
        holder: The name of this replica, never used by another process, nor by this one after a restart.
        boottime: A clock that goes on while the machine sleeps, in seconds.
    """

    def __init__(self, pool: Pool, holder: str, boottime: Callable[[], float]) -> None:
        self.holder = holder
        self._pool = pool
        self._boottime = boottime
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._rewound: set[str] = set()
        self.seen: dict[str, Row] = {}
        """The lease of each source as it was when its records were last loaded or written."""

    # --- what this replica has ---

    @property
    def held(self) -> frozenset[str]:
        """The sources that this replica may write for, as far as it knows."""
        with self._lock:
            return frozenset(self._fresh())

    def _fresh(self) -> dict[str, Held]:
        since = self._boottime() - LONGEST_SILENCE
        return {source: held for source, held in self._held.items() if held.renewed > since}

    def versions(self) -> dict[str, int]:
        """Return the versions of the records in memory of the sources that this replica may write for."""
        with self._lock:
            return {source: held.version for source, held in self._fresh().items()}

    def now(self) -> float:
        """Return the time by which leases are held, in seconds."""
        return self._boottime()

    def rewound(self) -> set[str]:
        """Return the sources whose version was found to have gone back since the last call."""
        with self._lock:
            found, self._rewound = self._rewound, set()
            return found

    def drop(self, sources: Collection[str]) -> None:
        """Forget leases, whatever the database says of them."""
        with self._lock:
            for source in sources:
                self._held.pop(source, None)

    # --- in a transaction ---

    def extend(self, session: Session, sources: Collection[str]) -> dict[str, int]:
        """Run the first statement of a transaction; return the versions to be noted once it is committed.

        Raises LeaseLostError if this replica may not write for one of them.
        """
        with self._lock:
            fresh = self._fresh()
        mine = {source: fresh[source] for source in sorted(sources) if source in fresh}
        if len(mine) < len(set(sources)):
            raise LeaseLostError(f"{self._pool.name}: another replica polls {', '.join(sorted(sources))}")
        fences, versions = [held.fence for held in mine.values()], [held.version for held in mine.values()]
        found = session.execute(EXTEND, [secrets.randbits(62), [*mine], fences, versions, self.holder])
        if len(found) < len(mine):
            lost = sorted(mine.keys() - {source for source, _ in found})
            raise LeaseLostError(f"{self._pool.name}: another replica has changed {', '.join(lost)}")
        return dict(found)

    def committed(self, versions: Mapping[str, int], begun: float) -> None:
        """Note that a transaction is committed that was begun at a time, by `boottime`: it has renewed the leases."""
        with self._lock:
            for source, version in versions.items():
                if source in self._held:
                    self._held[source].version = version
                    self._held[source].renewed = max(begun, self._held[source].renewed)
                if source in self.seen:
                    self.seen[source] = msgspec.structs.replace(self.seen[source], version=version, stamp=-1)

    def confirm(self, rows: Iterable[Row]) -> None:
        """Go on from records just loaded together with these rows, for the sources that are still this replica's.

        One whose version went back is dropped: what its poller remembers may never have happened.
        """
        with self._lock:
            for row in rows:
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

    def ensure(self, sources: Iterable[tuple[str, bytes]]) -> None:
        """Give sources that the state does not know a record and a lease."""
        rows = list(sources)
        names = [name for name, _ in rows]
        with self._pool.transaction() as session:
            session.execute(
                "INSERT INTO sources (name, record) SELECT * FROM unnest(?::text[], ?::bytea[]) "
                "AS new (name, record) ORDER BY name ON CONFLICT DO NOTHING",
                [names, [record for _, record in rows]],
            )
            session.execute(
                "INSERT INTO leases (source) SELECT name FROM unnest(?::text[]) AS name ORDER BY name "
                "ON CONFLICT DO NOTHING",
                [names],
            )

    def look(self) -> list[Row]:
        """Return all leases as they are now."""
        with self._pool.session() as session:
            return [as_row(row) for row in session.execute(LOOK)]

    def renew(self) -> None:
        """Renew the leases that are due; one whose row somebody locks is renewed later, or by its transaction.

        Raises StateError if the database cannot be asked.
        """
        asked = self._boottime()
        with self._lock:
            due = sorted(source for source, held in self._fresh().items() if asked - held.renewed >= RENEWAL)
        if not due:
            return
        with self._pool.session() as session:
            renewed: dict[str, int] = dict(session.execute(RENEW, [due, self.holder]))
        with self._lock:
            for source, held in self._held.items():
                if renewed.get(source) == held.fence:
                    held.renewed = asked

    def take(self, sources: Collection[str]) -> bool:
        """Take a group of sources that share a credential, all or none; return whether they are this replica's now."""
        asked = self._boottime()
        with self._pool.transaction() as session:
            if len(session.execute(FREE, [sorted(sources)])) < len(sources):
                return False
            taken = session.execute(TAKE, [self.holder, sorted(sources)])
        with self._lock:
            self._held.update({source: Held(fence, version, asked) for source, fence, version in taken})
        return True

    def hand_back(self, sources: Collection[str]) -> None:
        """Let other replicas have these sources at once. Their polls must have ended."""
        with self._lock:
            mine = {source: self._held.pop(source).fence for source in sorted(sources) if source in self._held}
        if mine:
            with self._pool.session() as session:
                session.execute(HAND_BACK, [[*mine], [*mine.values()], self.holder])

    def read_completely(self, sources: Collection[str], history: str) -> None:
        """Note that polls of these sources were complete in a history of the database: nothing is missing any more."""
        if sources:
            with self._pool.session() as session:
                session.execute(
                    "UPDATE leases SET history = ? WHERE source = ANY(?) AND holder = ?",
                    [history, sorted(sources), self.holder],
                )

    def mark_rewound(self, sources: Collection[str]) -> list[str]:
        """Note that the database forgot commits of these sources; return those of which nobody had noted it yet."""
        with self._pool.session() as session:
            query = "UPDATE leases SET history = '' WHERE source = ANY(?) AND history <> '' RETURNING source"
            return [source for (source,) in session.execute(query, [sorted(sources)])]

    # --- other replicas ---

    def beat(self, served: Mapping[str, int]) -> dict[str, int]:
        """Say that this replica lives, and which versions a scrape got of it.

        Return the newest version of each source that a scrape got of any.
        """
        with self._pool.transaction() as session:
            session.execute(BEAT, [self.holder, msgspec.json.encode(served)])
            rows = session.execute(f"SELECT served FROM replicas WHERE seen > {SINCE}")  # noqa: S608  # constants
            session.execute("DELETE FROM replicas WHERE seen < clock_timestamp() - interval '1 h'")
        newest: dict[str, int] = {}
        for (record,) in rows:
            for source, version in msgspec.json.decode(record, type=dict[str, int]).items():
                newest[source] = max(version, newest.get(source, version))
        return newest

    def leave(self) -> None:
        """Say that this replica ends."""
        with self._pool.session() as session:
            session.execute("DELETE FROM replicas WHERE name = ?", [self.holder])


def as_row(values: tuple[Any, ...]) -> Row:
    """Return a row of LOOK."""
    source, holder, fence, version, stamp, free, history, committed, current, replicas = values
    written = None if committed is None else float(committed)
    return Row(source, holder, fence, version, stamp, free, history, written, current, replicas)
