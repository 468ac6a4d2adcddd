"""Replicas that share one state: whatever one believes, only the holder of a source's lease writes for it."""

import msgspec
import psycopg
import pytest

from exporter.counting.counters import Rules
from exporter.counting.records import SourceState, copy
from exporter.errors import StateError
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import PollReport
from exporter.model import Batch, Job, Result
from exporter.state.connections import Pool
from exporter.state.leases import LONGEST_SILENCE, LeaseLostError, Leases
from exporter.state.opening import OpenedState
from exporter.state.postgres import PostgresStore
from exporter.state.postgres_schema import MIGRATIONS
from tests.core.ledger_harness import rules, run

TABLES = ("leases", "jobs", "sources", "scopes", "runs")

FAMILY = "jobrun_runs_total"


class LosingPool(Pool):
    """Connections on which the answers to COMMIT may get lost."""

    loses = False

    def _commit(self, connection):
        super()._commit(connection)
        if self.loses:
            raise StateError("no answer")


class Replica:
    """A ledger on the shared state, with leases of its own and a clock that is moved."""

    def __init__(self, url, name, sources=("s", "other"), migrations=MIGRATIONS, steps="off"):
        self.pool = LosingPool(url)
        self.time = 0.0
        self.leases = Leases(self.pool, name, lambda: self.time, len(migrations))
        self.store = PostgresStore(self.pool, self.leases, migrations=migrations)
        self.leases.ensure((each, msgspec.json.encode(SourceState(name=each, identity="api"))) for each in sources)
        loaded = self.store.load()
        self.ledger = Ledger(lambda: OpenedState(store=self.store, loaded=loaded))
        self.ledger.load()
        counting = Rules(run_buckets=(60.0,), step_buckets=(10.0,))
        self.ledger.configure({each: rules(name=each, steps=steps) for each in sources}, counting, "auto")
        self.ledger.reload(sources)

    def take(self, *sources):
        taken = self.leases.take(sources)
        if taken:
            self.ledger.reload(sources)
        return taken

    def poll(self, *ids, source="s", now=1000.0, result=Result.SUCCESS):
        self.ledger.start_poll(source, 0.0)
        runs = [run(each, start=10.0, end=20.0, result=result) for each in ids]
        batch = Batch(runs=runs, jobs=[Job(job_id="j", name="j")], through=now)
        self.ledger.commit(source, batch, PollContext(now=now, started=now))
        self.ledger.complete_poll(source, PollContext(now=now, started=now), swept=False)

    def successes(self, source="s"):
        jobs = [job for job in self.ledger.committed.jobs.values() if job.source == source]
        return sum(count.value for job in jobs for key, count in job.counts[FAMILY].items() if key == "success")


@pytest.fixture
def url(postgres_server):
    return postgres_server.new_database()


@pytest.fixture
def replica(url):
    made = []

    def make(name):
        made.append(Replica(url, name))
        return made[-1]

    yield make
    for each in made:
        each.ledger.close()


@pytest.fixture
def admin(url):
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def expire(admin):
    admin.execute("UPDATE leases SET until = now() - interval '1 s'")


def test_a_source_has_one_owner_until_its_lease_ends_or_is_handed_back(replica, admin):
    first, second = replica("a"), replica("b")
    assert first.take("s")
    assert not second.take("s")
    assert not second.take("other", "s")
    assert (first.leases.held, second.leases.held) == ({"s"}, frozenset())
    expire(admin)
    assert second.take("other", "s")
    second.leases.hand_back(["s", "other"])
    assert first.take("s")


def test_a_replica_continues_from_what_the_one_before_counted(replica):
    first, second = replica("a"), replica("b")
    first.take("s")
    first.poll("1", "2")
    first.leases.hand_back(["s"])
    second.take("s")
    second.poll("2", "3")
    first.ledger.reload(["s"])
    assert first.successes() == second.successes() == 3


def test_nobody_writes_without_a_lease(replica):
    only = replica("a")
    with pytest.raises(LeaseLostError):
        only.poll("1")
    assert only.successes() == 0


def test_a_poll_that_ends_after_its_lease_was_lost_reports_nothing(replica):
    only = replica("a")
    only.take("s")
    only.leases.drop(["s"])
    for _ in range(2):  # the second one finds the records loaded again
        report = PollReport(ended=1000.0, duration=1.0, outcome="success")
        with pytest.raises(LeaseLostError):
            only.ledger.finish_poll("s", report)
        only.ledger.keep_poll("s", report)
    assert not only.ledger.committed.sources["s"].status.last_poll


def test_a_replica_that_was_suspended_writes_nothing_although_it_believes_in_its_lease(replica, admin):
    asleep, other = replica("a"), replica("b")
    asleep.take("s")
    asleep.poll("1")
    expire(admin)
    other.take("s")
    other.poll("1", "2")
    assert asleep.leases.held == {"s"}
    with pytest.raises(LeaseLostError):
        asleep.poll("1", "2", "3")
    with pytest.raises(LeaseLostError):
        asleep.poll("1", "2", "3")
    assert asleep.leases.held == frozenset()
    assert asleep.successes() == other.successes() == 2


def test_a_replica_that_could_not_renew_for_long_stops_by_itself(replica):
    only = replica("a")
    only.take("s")
    only.time += LONGEST_SILENCE - 1
    only.leases.renew()
    only.time += LONGEST_SILENCE - 1
    assert only.leases.held == {"s"}
    only.time += 1
    assert only.leases.held == frozenset()
    with pytest.raises(LeaseLostError):
        only.poll("1")


def test_a_lost_response_to_a_commit_neither_loses_nor_doubles_a_run(replica):
    only = replica("a")
    only.take("s")
    only.poll("1")
    only.pool.loses = True
    with pytest.raises(StateError):
        only.poll("1", "2")
    only.pool.loses = False
    assert only.successes() == 1  # what is in memory is not what is committed, and nothing is judged on it
    only.poll("1", "2", "3")
    assert only.successes() == 3
    assert only.leases.held == {"s"}


def test_a_database_that_forgot_commits_is_not_written_on_what_memory_knows(replica, admin):
    only = replica("a")
    only.take("s")
    only.poll("1")
    kept = [admin.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES]  # noqa: S608  # constants
    only.poll("1", "2")
    rewind(admin, kept)
    with pytest.raises(LeaseLostError):
        only.poll("1", "2", "3")
    with pytest.raises(LeaseLostError):
        only.poll("1", "2", "3")
    assert only.leases.held == frozenset()
    assert only.successes() == 1
    expire(admin)
    only.take("s")
    only.poll("1", "2", "3")
    assert only.successes() == 3


def rewind(admin, kept):
    """Put back what tables held, as a failover to a standby that had not got the last commits does."""
    for table, rows in zip(TABLES, kept, strict=True):
        admin.execute(f"DELETE FROM {table}")  # noqa: S608  # constants
        marks = ", ".join(["%s"] * len(rows[0])) if rows else ""
        for row in rows:
            admin.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE VALUES ({marks})", row)  # noqa: S608  # constants


def test_a_locked_row_keeps_only_its_own_source_from_being_renewed(replica, url):
    only = replica("a")
    only.take("s")
    only.take("other")
    with psycopg.connect(url) as locking:
        locking.execute("SELECT 1 FROM leases WHERE source = 's' FOR UPDATE")
        only.time += LONGEST_SILENCE - 1
        only.leases.renew()
        only.time += 2
        assert only.leases.held == {"other"}
        only.poll("1", source="other")
    assert only.successes("other") == 1


def test_jobs_of_two_replicas_never_share_a_key(replica):
    first, second = replica("a"), replica("b")
    first.take("s")
    second.take("other")
    first.poll("1")
    second.poll("1", source="other")
    for each in (first, second):
        each.ledger.reload(["s", "other"])
        assert (each.successes(), each.successes("other")) == (1, 1)
    assert first.ledger.committed.jobs == second.ledger.committed.jobs


def test_counts_of_several_replicas_for_the_exporter_add_up(replica):
    first, second = replica("a"), replica("b")
    for each in (first, second, first):
        exporter = copy(each.ledger.committed.exporter)
        exporter.count("family", "label")
        each.ledger._replace([exporter])
    second.ledger.reload(["s"])
    assert second.ledger.committed.exporter.counts["family"]["label"].value == 3
