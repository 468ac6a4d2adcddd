"""Broken replicas, each of which the auditor must find.

`python -m tests.chaos.replicas.mutants NAME run …` runs the exporter with one of them.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from exporter import cli, sharing
from exporter.replica import Replica
from exporter.state import lease_statements, leases, postgres
from exporter.state.connections import Pool, Rows, Session
from exporter.state.lease_row import LeaseRow
from exporter.state.leases import Leases


class _IgnoresLostCommits(Replica):
    """Keeps its records in memory although the database has lost commits."""

    def _drop(self, rows: Mapping[str, LeaseRow], before: Mapping[str, int]) -> None:
        super()._drop(rows, dict.fromkeys(before, 0))

    def _mark_rewound(self) -> None:
        self._new_rewinds.clear()

    def _serve_read_sources(self, rows: Mapping[str, LeaseRow]) -> None:
        pass


class _IgnoresVersions(Leases):
    """Takes the version of each lease for at least the one that it knows."""

    def confirm(self, rows: Iterable[LeaseRow]) -> None:
        with self._lock:
            versions = {source: held.version for source, held in self._held.items()}
        super().confirm([_at_least(row, versions.get(row.source, 0)) for row in rows])

    def read_all(self) -> list[LeaseRow]:
        return [_at_least(row, 0) for row in super().read_all()]


def _at_least(row: LeaseRow, version: int) -> LeaseRow:
    return msgspec.structs.replace(row, version=max(version, row.version), history=row.current)


def _no_version() -> None:
    lease_statements.EXTEND = lease_statements.EXTEND.replace("AND leases.version = mine.version", "")
    sharing.Leases, sharing.Replica = _IgnoresVersions, _IgnoresLostCommits  # type: ignore[attr-defined]  # to be broken


class _KeepsLeases(Leases):
    """Takes every lease for its own that it once had."""

    def renew(self, _request_ages: leases.RequestAges) -> None:
        with self._lock:
            for held in self._held.values():
                held.renewed = self._boottime()

    def confirm(self, rows: Iterable[LeaseRow]) -> None:
        rows = list(rows)
        with self._lock:
            for row in rows:
                self.seen[row.source] = row
                if row.source in self._held:
                    self._held[row.source].version = row.version

    def _fresh(self) -> dict[str, leases.Held]:
        return dict(self._held)


class _KeepsRecords(Replica):
    """Keeps its records in memory although it has lost their lease."""

    def _drop(self, rows: Mapping[str, LeaseRow], before: Mapping[str, int]) -> None:
        pass


def _no_fence() -> None:
    lease_statements.EXTEND = lease_statements.EXTEND.replace(
        "leases.holder = ? AND leases.fence = mine.fence", "?::text <> ''"
    )
    sharing.Leases, sharing.Replica = _KeepsLeases, _KeepsRecords  # type: ignore[attr-defined]  # to be broken


def _fence_outside_transaction() -> None:
    """Check the lease before the transaction that writes."""

    @contextmanager
    def transaction(self: postgres.PostgresStore, *sources: str) -> Iterator[None]:
        written: list[leases.Written] = []
        started = 0.0
        if self._leases is not None and sources:
            started = self._leases.now()
            with self._pool.session() as session:
                written = self._leases.extend(session, sources)
        with self._translate_errors(), self._within(self._pool.transaction()):
            self._uncommitted = self._exporter
            yield
        self._exporter = self._uncommitted
        if self._leases is not None:
            self._leases.record_commit(written, started)

    postgres.PostgresStore.transaction = transaction  # type: ignore[method-assign]  # to be broken


class _LocalTime(Session):
    """Uses the clock of the replica instead of the clock of the database."""

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Rows:
        return super().execute(query.replace("clock_timestamp()", f"to_timestamp({time.time()})"), values)


def _replica_clock() -> None:
    @contextmanager
    def session(self: Pool) -> Iterator[Session]:
        with self.translate_errors(), self._borrow() as connection:
            yield _LocalTime(connection)

    before = Pool.transaction

    @contextmanager
    def transaction(self: Pool, *begin: str) -> Iterator[Session]:
        with before(self, *begin) as plain:
            yield _LocalTime(plain._connection)

    Pool.session, Pool.transaction = session, transaction  # type: ignore[method-assign,assignment]  # to be broken


class ReplicaMutant(NamedTuple):
    """A broken replica. `apply`: breaks this process. `shown_by`: disruptions in which the auditor finds it."""

    apply: Callable[[], None]
    shown_by: Collection[str]


REPLICA_MUTANTS: Mapping[str, ReplicaMutant] = {
    "no fence": ReplicaMutant(_no_fence, ("SIGSTOP",)),
    "no version": ReplicaMutant(_no_version, ("failover, commits lost",)),
    "fence outside the transaction": ReplicaMutant(
        _fence_outside_transaction, ("SIGSTOP after the lease's statement",)
    ),
    "clock of the replica": ReplicaMutant(_replica_clock, ("replica's clock an hour wrong",)),
}
"""Broken replicas by name."""


def apply_mutant(name: str) -> None:
    """Break this process. "" stands for no mutant."""
    if name:
        REPLICA_MUTANTS[name].apply()


if __name__ == "__main__":
    apply_mutant(sys.argv[1])
    sys.exit(cli.main(sys.argv[2:]))
