"""Disruptions of the database of replicas, in the same form as those in `process_disruptions`."""

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


def restart(fleet: Fleet, _rng: random.Random) -> Iterator[float]:
    """Restart the database in immediate mode, as after a crash."""
    fleet.database.restart()
    yield 1.0


def _reset_pooler(fleet: Fleet) -> None:
    if fleet.pooler is not None:
        fleet.pooler.reset_connections()


def fail_over_losing_commits(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Fail over to the standby, which does not have the last commits."""
    fleet.database.fall_behind()
    yield rng.uniform(0.5, 6.0)
    fleet.database.fail_over()
    _reset_pooler(fleet)
    yield rng.uniform(0.0, 2.0)
    fleet.database.rebuild()
    yield 1.0


def fail_over_synchronously(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Fail over to the standby, which has every commit that was answered."""
    if not fleet.database.synchronize():
        fleet.findings.append("the standby does not become synchronous")
    yield rng.uniform(0.5, 4.0)
    fleet.database.fail_over()
    _reset_pooler(fleet)
    yield rng.uniform(0.0, 2.0)
    fleet.database.rebuild()
    yield 1.0


def return_old_primary(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Fail over, and start the old primary again. It accepts writes while connections are reset."""
    if fleet.pooler is not None or fleet.free() != fleet.replicas:
        return
    fleet.two_primaries = True
    fleet.database.fail_over()
    yield rng.uniform(3.0, 8.0)
    fleet.database.start_old_primary()
    for _ in range(rng.randint(1, 4)):
        for replica in fleet.replicas:
            if rng.random() < 0.7:
                for proxy in replica.proxies:
                    proxy.cut()
        yield rng.uniform(0.5, 3.0)
    fleet.database.rebuild()
    fleet.two_primaries = False
    yield 1.0


def freeze_backend(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Stop a backend that serves a replica with SIGSTOP."""
    backends = fleet.database.backends()
    if not backends:
        return
    victim = rng.choice(backends)
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP)
    yield rng.choice((3.0, 12.0, 25.0))
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGCONT)


def freeze_postmaster(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Stop the postmaster with SIGSTOP, at times with all backends."""
    victims = [fleet.database.postmaster(), *(fleet.database.backends() if rng.random() < 0.5 else ())]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    yield rng.choice((3.0, 12.0, 20.0))
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def restart_pooler(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Kill PgBouncer and start it again."""
    if fleet.pooler is None:
        return
    fleet.pooler.end()
    yield rng.choice((0.0, 3.0))
    fleet.pooler.restart()


def make_read_only(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Let the database refuse writes."""
    _alter(fleet, "SET default_transaction_read_only = on")
    yield rng.choice((3.0, 12.0, 20.0))
    _alter(fleet, "RESET default_transaction_read_only")


def _alter(fleet: Fleet, what: str) -> None:
    with fleet.database.connect() as connection:
        connection.execute(f"ALTER SYSTEM {what}")
        connection.execute("SELECT pg_reload_conf()")


def fill_disk(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Fill the file system of the database."""
    if not fleet.plan.small_disk:
        return
    ballast = fleet.database.disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    yield rng.choice((3.0, 12.0))
    ballast.unlink()
    fleet.database.revive()
    yield 1.0


def lock_row(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Lock the row of one lease, for a minute if nothing else happens. The other sources must still be polled."""
    with fleet.database.connect() as connection:
        connection.autocommit = False
        name = rng.choice(("first", "strait", "workato"))
        connection.execute("SELECT 1 FROM leases WHERE source = %s FOR UPDATE", (name,))
        yield 60.0 if fleet.plan.alone else 20.0
        if fleet.plan.alone:
            for vendor in {"snowplow", "strait", "workato"} - {"snowplow" if name == "first" else name}:
                if (sent := fleet.requests.since(vendor, 50.0)) < 20:
                    fleet.findings.append(f"{sent} requests of {vendor} while the lease of {name} was locked")
        with suppress(psycopg.Error):
            connection.rollback()


def cancel_statements(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Cancel the running statements of all replicas several times, as a statement timeout does."""
    for _ in range(rng.randint(5, 20)):
        with suppress(psycopg.Error), fleet.database.connect() as connection:
            connection.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state <> 'idle' "
                "AND application_name = 'jobrun-exporter' AND pid <> pg_backend_pid()"
            )
        yield 0.15


def restore_dump(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Restore a dump while all replicas run."""
    programs = postgres.NEWEST_FIRST[0]
    url = f"postgresql://jobrun@127.0.0.1:{fleet.database.primary_port()}/{NAME}"
    dump = subprocess.run(  # noqa: S603  # its own programs
        [programs / "pg_dump", "--clean", url], check=True, capture_output=True, timeout=60
    ).stdout
    yield rng.uniform(1.0, 8.0)
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603  # as above
            [programs / "psql", "--quiet", "--single-transaction", url],
            input=dump,
            check=False,
            capture_output=True,
            timeout=30,
        )
    yield 1.0


def move_clock(fleet: Fleet, rng: random.Random) -> Iterator[float]:
    """Move the clock of the database by half a minute, and back later."""
    if not fleet.plan.moving_clock:
        return
    fleet.database.set_clock(rng.choice((-30, 30)))
    yield rng.uniform(5.0, 30.0)
    fleet.database.set_clock(0)
