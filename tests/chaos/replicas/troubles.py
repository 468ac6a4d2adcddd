"""The table of troubles that replicas may have."""

from collections.abc import Mapping

import msgspec

from tests.chaos.replicas import database_troubles as of_database
from tests.chaos.replicas import process_troubles as of_process
from tests.chaos.replicas.process_troubles import Trouble


class Entry(msgspec.Struct, frozen=True):
    """A trouble.

    Attributes:
        trouble: Makes and undoes it.
        weight: How often it is drawn.
        of_database: No two of these happen at once.
        of_all: It needs all replicas, so it begins when no other trouble is in progress.
    """

    trouble: Trouble
    weight: float = 1.0
    of_database: bool = False
    of_all: bool = False


TROUBLES: Mapping[str, Entry] = {
    "kill -9": Entry(of_process.killed, 40),
    "kill -9, take-over awaited": Entry(of_process.killed_and_replaced, 0),
    "kill -9 at a statement": Entry(of_process.killed_at_statement, 10),
    "kill -9 inside COMMIT": Entry(of_process.killed_in_commit, 10),
    "answer of COMMIT lost": Entry(of_process.answer_lost, 3),
    "SIGSTOP": Entry(of_process.frozen, 2),
    "SIGSTOP in a transaction": Entry(of_process.frozen_in_transaction, 2),
    "SIGSTOP after the lease's statement": Entry(of_process.frozen_at_lease, 1),
    "rolling restart": Entry(of_process.rolling_restart, 0.5, of_all=True),
    "all replicas at once": Entry(of_process.all_at_once, 0.5, of_all=True),
    "older configuration": Entry(of_process.older_configuration, 0.5),
    "replica's clock an hour wrong": Entry(of_process.wrong_clock, 0.7),
    "connections reset": Entry(of_process.cut),
    "half open": Entry(of_process.half_open),
    "connections held, one way": Entry(of_process.held("up"), 0.7),
    "connections held, other way": Entry(of_process.held("down"), 0.7),
    "connections held, both ways": Entry(of_process.held("up", "down"), 0.7),
    "connections refused": Entry(of_process.refused),
    "connections flapping": Entry(of_process.flapping),
    "database restarted": Entry(of_database.restarted, 2, of_database=True),
    "failover, commits lost": Entry(of_database.lossy_failover, 5, of_database=True),
    "failover, synchronous": Entry(of_database.synchronous_failover, 3, of_database=True),
    "old primary returns": Entry(of_database.old_primary_returns, 0.7, of_database=True),
    "backend frozen": Entry(of_database.backend_frozen, 0.7),
    "postmaster frozen": Entry(of_database.postmaster_frozen, 0.5, of_database=True),
    "PgBouncer restarted": Entry(of_database.pooler_restarted, 2),
    "read-only": Entry(of_database.read_only, 0.5, of_database=True),
    "disk full": Entry(of_database.disk_full, 0.5, of_database=True),
    "row locked": Entry(of_database.row_locked, 0.3, of_database=True),
    "statements canceled": Entry(of_database.statements_canceled),
    "dump restored": Entry(of_database.dump_restored, 0.7, of_database=True),
    "database's clock jumps": Entry(of_database.clock_jumps, 2),
}
