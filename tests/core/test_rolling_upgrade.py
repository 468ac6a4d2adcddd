"""A newer version migrates the shared state while replicas of an older version run."""

from contextlib import closing

import psycopg
import pytest

from exporter.errors import StateError
from exporter.state.connections import Pool
from exporter.state.leases import LeaseLostError, SupersededError
from exporter.state.lock import RefusedStateError
from exporter.state.postgres import PostgresStore, migrate, schema_of
from exporter.state.postgres_schema import MIGRATIONS
from tests.core.replica_harness import Member, ReplicaLedger

NEXT = (*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN color text",))


@pytest.fixture
def pool(url):
    with closing(Pool(url)) as pool:
        yield pool


@pytest.fixture
def older(url):
    replica = ReplicaLedger(url, "older")
    assert replica.take("s")
    replica.poll("1", "2")
    yield replica
    replica.store.close()


@pytest.mark.usefixtures("older")
def test_the_newer_version_takes_over_at_once_and_continues_counting(url):
    newer = ReplicaLedger(url, "newer", migrations=NEXT)
    assert newer.take("s")
    assert newer.successes() == 2
    newer.poll("2", "3", now=1010.0)
    assert newer.successes() == 3
    newer.store.close()


def test_an_older_replica_commits_nothing_after_the_migration(older, url, pool):
    migrate(pool, NEXT)
    with pytest.raises(LeaseLostError):
        older.poll("3", now=1010.0)
    with pytest.raises(SupersededError, match="upgrade or stop this replica"):
        older.ledger.count_cold_start("rewound")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def test_an_older_replica_takes_no_lease_and_loads_nothing_after_the_migration(older, pool):
    migrate(pool, NEXT)
    assert older.leases.take(["s"]) is None
    with pytest.raises(SupersededError, match=f"to schema {len(NEXT)}, this version knows {len(MIGRATIONS)}"):
        older.store.load()
    assert older.leases.held == frozenset()


def test_an_older_replica_ends_its_polls_and_says_why_it_serves_nothing(url, pool):
    member = Member(url, "older")
    assert member.replica.owned == {"s"}
    assert member.replica.stale() == ""
    migrate(pool, NEXT)
    member.tick()
    assert member.replica.owned == frozenset()
    assert "a newer version has migrated the state" in member.replica.stale()
    with psycopg.connect(url, autocommit=True) as connection:  # the dump from before the upgrade is restored
        connection.execute("UPDATE schema_version SET version = %s", [len(MIGRATIONS)])
    member.tick()
    assert member.replica.owned == {"s"}
    assert member.replica.stale() == ""
    member.ledger.close()


def test_an_older_version_that_starts_after_the_migration_is_refused(older, url, pool):
    migrate(pool, NEXT)
    with closing(Pool(url)) as another, pytest.raises(RefusedStateError, match="Run that version, or restore"):
        PostgresStore(another, older.leases)


def test_a_migration_waits_for_a_transaction_in_progress_and_fails_without_a_trace(older, url, pool):
    with psycopg.connect(url) as writing:
        writing.execute("SELECT 1 FROM leases WHERE source = 's' FOR UPDATE")
        with pytest.raises(StateError, match="lock timeout"):
            migrate(pool, NEXT)
    assert schema_of(pool) == len(MIGRATIONS)
    older.poll("3", now=1010.0)
    assert older.successes() == 3
    assert not migrate(pool, NEXT)
    assert schema_of(pool) == len(NEXT)


@pytest.mark.usefixtures("older")
def test_a_command_of_the_newer_version_does_not_migrate_the_state(pool):
    with pytest.raises(RefusedStateError, match="start a daemon of this version first, which migrates the state"):
        PostgresStore(pool, migrates=False, migrations=NEXT)
    assert schema_of(pool) == len(MIGRATIONS)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_state_of_each_older_version_is_migrated_and_its_leases_are_taken_away(url, pool, version):
    migrate(pool, MIGRATIONS[:version])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO leases (source, holder, fence) VALUES ('s', 'older', 7)")
        assert not migrate(pool)
        assert schema_of(pool) == len(MIGRATIONS)
        found = connection.execute("SELECT holder, fence, history FROM leases").fetchall()
    assert found == [("", 8, "new")]
