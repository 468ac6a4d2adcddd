"""Broken replicas: the auditor must find each of them. `python -m tests.chaos.replicas.mutants` runs one."""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from exporter import cli, sharing
from exporter.replica import Replica
from exporter.state import lease_statements, leases, postgres
from exporter.state.connections import Pool, Rows, Session
from exporter.state.lease_row import Row
from exporter.state.leases import Leases


class _Versionless(Replica):
    """Uses its memory, although the database has lost commits."""

    def _drop(self, rows: Mapping[str, Row], before: Mapping[str, int]) -> None:
        super()._drop(rows, dict.fromkeys(before, 0))

    def _mark_rewound(self) -> None:
        self._went_back.clear()

    def _expose_read_sources(self, rows: Mapping[str, Row]) -> None:
        pass


class _Believing(Leases):
    def confirm(self, rows: Iterable[Row]) -> None:
        with self._lock:
            versions = {source: held.version for source, held in self._held.items()}
        super().confirm([_at_least(row, versions.get(row.source, 0)) for row in rows])

    def read_all(self) -> list[Row]:
        return [_at_least(row, 0) for row in super().read_all()]


def _at_least(row: Row, version: int) -> Row:
    return msgspec.structs.replace(row, version=max(version, row.version), history=row.current)


def _no_version() -> None:
    lease_statements.EXTEND = lease_statements.EXTEND.replace("AND leases.version = mine.version", "")
    sharing.Leases, sharing.Replica = _Believing, _Versionless  # type: ignore[attr-defined]  # to be broken


class _Fenceless(Leases):
    """Takes every lease that it once had for its own."""

    def renew(self, _request_ages: leases.RequestAges) -> None:
        with self._lock:
            for held in self._held.values():
                held.renewed = self._boottime()

    def confirm(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        with self._lock:
            for row in rows:
                self.seen[row.source] = row
                if row.source in self._held:
                    self._held[row.source].version = row.version

    def _fresh(self) -> dict[str, leases.Held]:
        return dict(self._held)


class _Staying(Replica):
    def _drop(self, rows: Mapping[str, Row], before: Mapping[str, int]) -> None:
        pass


def _no_fence() -> None:
    lease_statements.EXTEND = lease_statements.EXTEND.replace(
        "leases.holder = ? AND leases.fence = mine.fence", "?::text <> ''"
    )
    sharing.Leases, sharing.Replica = _Fenceless, _Staying  # type: ignore[attr-defined]  # to be broken


def _fence_outside() -> None:
    """Check the lease before the transaction that writes."""

    @contextmanager
    def transaction(self: postgres.PostgresStore, *sources: str) -> Iterator[None]:
        written: list[leases.Written] = []
        begun = 0.0
        if self._leases is not None and sources:
            begun = self._leases.now()
            with self._pool.session() as session:
                written = self._leases.extend(session, sources)
        with self._translate_errors(), self._within(self._pool.transaction()):
            self._uncommitted = self._exporter
            yield
        self._exporter = self._uncommitted
        if self._leases is not None:
            self._leases.committed(written, begun)

    postgres.PostgresStore.transaction = transaction  # type: ignore[method-assign]  # to be broken


class _Clocked(Session):
    """Uses this machine's time instead of the database's."""

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Rows:
        return super().execute(query.replace("clock_timestamp()", f"to_timestamp({time.time()})"), values)


def _clock_of_replica() -> None:
    @contextmanager
    def session(self: Pool) -> Iterator[Session]:
        with self.translate_errors(), self._borrow() as connection:
            yield _Clocked(connection)

    before = Pool.transaction

    @contextmanager
    def transaction(self: Pool, *begin: str) -> Iterator[Session]:
        with before(self, *begin) as plain:
            yield _Clocked(plain._connection)

    Pool.session, Pool.transaction = session, transaction  # type: ignore[method-assign,assignment]  # to be broken


BROKEN: Mapping[str, tuple[Callable[[], None], Collection[str]]] = {
    "no fence": (_no_fence, ("SIGSTOP",)),
    "no version": (_no_version, ("failover, commits lost",)),
    "fence outside the transaction": (_fence_outside, ("SIGSTOP after the lease's statement",)),
    "clock of the replica": (_clock_of_replica, ("replica's clock an hour wrong",)),
}
"""How a replica is broken, and the troubles that show it."""


def apply(name: str) -> None:
    """Break this process if the environment names a mutant."""
    if name:
        BROKEN[name][0]()


if __name__ == "__main__":
    apply(sys.argv[1])
    sys.exit(cli.main(sys.argv[2:]))
