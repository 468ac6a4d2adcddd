"""The table of disruptions of replicas: what goes wrong, and how often."""

from collections.abc import Mapping

import msgspec

from tests.chaos.replicas import database_disruptions as database
from tests.chaos.replicas import process_disruptions as process
from tests.chaos.replicas.process_disruptions import DisruptionSteps


class ReplicaDisruption(msgspec.Struct, frozen=True):
    """A disruption.

    Attributes:
        steps: Does and undoes it.
        weight: How often it is chosen, relative to others.
        affects_database: Whether it affects the whole database. Two of these never happen at once.
        affects_all: Whether it affects all replicas. It starts when no other disruption is in progress.
    """

    steps: DisruptionSteps
    weight: float = 1.0
    affects_database: bool = False
    affects_all: bool = False


REPLICA_DISRUPTIONS: Mapping[str, ReplicaDisruption] = {
    "kill -9": ReplicaDisruption(process.kill, 40),
    "kill -9, take-over awaited": ReplicaDisruption(process.kill_and_await_takeover, 0),
    "kill -9 at a statement": ReplicaDisruption(process.kill_at_statement, 10),
    "kill -9 inside COMMIT": ReplicaDisruption(process.kill_in_commit, 10),
    "answer of COMMIT lost": ReplicaDisruption(process.lose_commit_answer, 3),
    "SIGSTOP": ReplicaDisruption(process.freeze, 2),
    "SIGSTOP in a transaction": ReplicaDisruption(process.freeze_in_transaction, 2),
    "SIGSTOP after the lease's statement": ReplicaDisruption(process.freeze_after_lease_statement, 1),
    "rolling restart": ReplicaDisruption(process.rolling_restart, 0.5, affects_all=True),
    "all replicas at once": ReplicaDisruption(process.kill_all, 0.5, affects_all=True),
    "older configuration": ReplicaDisruption(process.run_older_config, 0.5),
    "older configuration, reloaded": ReplicaDisruption(process.reload_older_config, 2),
    "replica's clock an hour wrong": ReplicaDisruption(process.run_wrong_clock, 0.7),
    "connections reset": ReplicaDisruption(process.reset_connections),
    "half open": ReplicaDisruption(process.half_open_connections),
    "connections held, one way": ReplicaDisruption(process.hold_connections("up"), 0.7),
    "connections held, other way": ReplicaDisruption(process.hold_connections("down"), 0.7),
    "connections held, both ways": ReplicaDisruption(process.hold_connections("up", "down"), 0.7),
    "connections refused": ReplicaDisruption(process.refuse_connections),
    "connections flapping": ReplicaDisruption(process.flap_connections),
    "database restarted": ReplicaDisruption(database.restart, 2, affects_database=True),
    "failover, commits lost": ReplicaDisruption(database.fail_over_losing_commits, 5, affects_database=True),
    "failover, synchronous": ReplicaDisruption(database.fail_over_synchronously, 3, affects_database=True),
    "old primary returns": ReplicaDisruption(database.return_old_primary, 0.7, affects_database=True),
    "backend frozen": ReplicaDisruption(database.freeze_backend, 0.7),
    "postmaster frozen": ReplicaDisruption(database.freeze_postmaster, 0.5, affects_database=True),
    "PgBouncer restarted": ReplicaDisruption(database.restart_pooler, 2),
    "read-only": ReplicaDisruption(database.make_read_only, 0.5, affects_database=True),
    "disk full": ReplicaDisruption(database.fill_disk, 0.5, affects_database=True),
    "row locked": ReplicaDisruption(database.lock_row, 0.3, affects_database=True),
    "statements canceled": ReplicaDisruption(database.cancel_statements),
    "dump restored": ReplicaDisruption(database.restore_dump, 0.7, affects_database=True),
    "database's clock jumps": ReplicaDisruption(database.move_clock, 2),
}
