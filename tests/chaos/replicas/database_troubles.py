"""What goes wrong with the database of replicas; see `process_troubles` for what a trouble is."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import psycopg

from tests import postgres
from tests.chaos.replicas.database import NAME
from tests.chaos.replicas.fleet import Fleet


def restarted(fleet: Fleet, _dice: random.Random) -> Iterator[float]:
    """The database is restarted in immediate mode."""
    fleet.database.restart()
    yield 1.0


def _switched(fleet: Fleet) -> None:
    if fleet.pooler is not None:
        fleet.pooler.switched()


def lossy_failover(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """The standby takes over without the last commits."""
    fleet.database.fall_behind()
    yield dice.uniform(0.5, 6.0)
    fleet.database.fail_over()
    _switched(fleet)
    yield dice.uniform(0.0, 2.0)
    fleet.database.rebuild()
    yield 1.0


def synchronous_failover(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """The standby takes over with every commit that was answered."""
    if not fleet.database.synchronize():
        fleet.wrong.append("the standby does not get synchronous")
    yield dice.uniform(0.5, 4.0)
    fleet.database.fail_over()
    _switched(fleet)
    yield dice.uniform(0.0, 2.0)
    fleet.database.rebuild()
    yield 1.0


def old_primary_returns(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """After a failover the old primary returns and takes writes, while connections are reset."""
    if fleet.pooler is not None or fleet.free() != fleet.replicas:
        return
    fleet.split = True
    fleet.database.fail_over()
    yield dice.uniform(3.0, 8.0)
    fleet.database.return_of_the_old()
    for _ in range(dice.randint(1, 4)):
        for replica in fleet.replicas:
            if dice.random() < 0.7:
                for wire in replica.wires:
                    wire.cut()
        yield dice.uniform(0.5, 3.0)
    fleet.database.rebuild()
    fleet.split = False
    yield 1.0


def backend_frozen(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGSTOP of a process that serves a replica."""
    backends = fleet.database.backends()
    if not backends:
        return
    victim = dice.choice(backends)
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP)
    yield dice.choice((3.0, 12.0, 25.0))
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGCONT)


def postmaster_frozen(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """SIGSTOP of the process that accepts connections, or of all of the database."""
    victims = [fleet.database.postmaster(), *(fleet.database.backends() if dice.random() < 0.5 else ())]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    yield dice.choice((3.0, 12.0, 20.0))
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def pooler_restarted(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """PgBouncer is killed and started again."""
    if fleet.pooler is None:
        return
    fleet.pooler.end()
    yield dice.choice((0.0, 3.0))
    fleet.pooler.restart()


def read_only(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """The database takes no writes."""
    _alter(fleet, "SET default_transaction_read_only = on")
    yield dice.choice((3.0, 12.0, 20.0))
    _alter(fleet, "RESET default_transaction_read_only")


def _alter(fleet: Fleet, what: str) -> None:
    with fleet.database.connect() as connection:
        connection.execute(f"ALTER SYSTEM {what}")
        connection.execute("SELECT pg_reload_conf()")


def disk_full(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """The database's file system has no free block."""
    if not fleet.plan.small_disk:
        return
    ballast = fleet.database.disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    yield dice.choice((3.0, 12.0))
    ballast.unlink()
    fleet.database.revive()
    yield 1.0


def row_locked(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """Somebody locks one source's lease for a minute; the others must go on."""
    with fleet.database.connect() as connection:
        connection.autocommit = False
        name = dice.choice(("first", "strait", "workato"))
        connection.execute("SELECT 1 FROM leases WHERE source = %s FOR UPDATE", (name,))
        yield 60.0 if fleet.plan.alone else 20.0
        if fleet.plan.alone:
            for family in {"snowplow", "strait", "workato"} - {"snowplow" if name == "first" else name}:
                if (sent := fleet.spending.since(family, 50.0)) < 20:
                    fleet.wrong.append(f"{sent} requests of {family} while the lease of {name} was locked")
        with suppress(psycopg.Error):
            connection.rollback()


def statements_canceled(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """Statements are canceled, as a statement timeout does."""
    for _ in range(dice.randint(5, 20)):
        with suppress(psycopg.Error), fleet.database.connect() as connection:
            connection.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state <> 'idle' "
                "AND application_name = 'jobrun-exporter' AND pid <> pg_backend_pid()"
            )
        yield 0.15


def dump_restored(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """A dump is restored while everything runs."""
    programs = postgres.NEWEST_FIRST[0]
    url = f"postgresql://jobrun@127.0.0.1:{fleet.database.primary_port()}/{NAME}"
    dump = subprocess.run(  # noqa: S603  # its own programs
        [programs / "pg_dump", "--clean", url], check=True, capture_output=True, timeout=60
    ).stdout
    yield dice.uniform(1.0, 8.0)
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603  # as above
            [programs / "psql", "--quiet", "--single-transaction", url],
            input=dump,
            check=False,
            capture_output=True,
            timeout=30,
        )
    yield 1.0


def clock_jumps(fleet: Fleet, dice: random.Random) -> Iterator[float]:
    """The database's clock jumps by half a minute, and back later."""
    if not fleet.plan.moving_clock:
        return
    fleet.database.set_clock(dice.choice((-30, 30)))
    yield dice.uniform(5.0, 30.0)
    fleet.database.set_clock(0)
