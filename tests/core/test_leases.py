"""Replicas that share one state: only the holder of a source's lease can write for the source."""

from contextlib import closing

import httpx
import psycopg
import pytest
import yaml
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, NoPublisher
from exporter.client.budget import Stopped
from exporter.config import loads
from exporter.counting.records import copy
from exporter.errors import StateError
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import PollReport
from exporter.metrics.requests import RequestMetrics
from exporter.model import Batch, Result
from exporter.sources import KNOWN_NAMES
from exporter.state.connections import Pool
from exporter.state.lease_statements import LONGEST_SILENCE
from exporter.state.leases import LeaseLostError
from exporter.state.postgres import migrate
from exporter.state.postgres_schema import MIGRATIONS
from tests.core.ledger_harness import run
from tests.core.replica_harness import ReplicaLedger, expire, rewind, saved


@pytest.fixture
def replica(url):
    made = []

    def make(name):
        made.append(ReplicaLedger(url, name))
        return made[-1]

    yield make
    for each in made:
        each.ledger.close()


def test_a_source_has_one_owner_until_its_lease_ends_or_is_handed_back(replica, admin):
    first, second = replica("a"), replica("b")
    assert first.take("s")
    assert not second.take("s")
    assert not second.take("other", "s")
    assert (first.leases.held, second.leases.held) == ({"s"}, frozenset())
    expire(admin)
    assert second.take("other", "s")
    second.hand_back("s", "other")
    assert first.take("s")


def test_a_replica_continues_from_the_counts_of_the_previous_owner(replica):
    first, second = replica("a"), replica("b")
    first.take("s")
    first.poll("1", "2")
    first.hand_back("s")
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
    for _ in range(2):  # the second poll finds the records loaded again
        report = PollReport(ended=1000.0, duration=1.0, outcome="success")
        with pytest.raises(LeaseLostError):
            only.ledger.finish_poll("s", report)
        only.ledger.keep_poll("s", report)
    assert not only.ledger.committed.sources["s"].status.last_poll


def test_a_replica_that_was_suspended_writes_nothing_although_it_still_assumes_its_lease(replica, admin):
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
    only.renew()
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
    assert only.successes() == 1  # memory differs from the committed records, so no row is classified by it
    only.poll("1", "2", "3")
    assert only.successes() == 3
    assert only.leases.held == {"s"}


def test_after_lost_commits_nothing_is_written_from_the_records_in_memory(replica, admin):
    only = replica("a")
    only.take("s")
    only.poll("1")
    kept = saved(admin)
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


def test_nobody_takes_a_lease_until_one_that_a_failover_lost_has_ended(replica, admin):
    running = replica("running")
    admin.execute("UPDATE exporter SET history = '00000000'")  # like on a standby that replaces the primary
    starting = replica("starting")
    assert not running.take("s")
    assert not starting.take("s")
    starting.leases.read_all()
    admin.execute("UPDATE exporter SET noticed = noticed - %s * interval '1 s'", [LONGEST_SILENCE - 1])
    running.leases.read_all()
    assert not running.take("s")
    assert not starting.take("s")
    admin.execute("UPDATE exporter SET noticed = noticed - interval '1 s'")
    assert starting.take("s")


def test_leases_are_taken_although_the_clock_of_the_new_primary_is_behind(replica, admin):
    one = replica("one")
    admin.execute("UPDATE exporter SET noticed = clock_timestamp() + interval '1 h'")
    assert one.take("s")


def test_a_migrated_state_has_no_failover_to_wait_for(replica, admin, url):
    with closing(Pool(url)) as pool:
        assert migrate(pool, MIGRATIONS[:2])
    assert replica("one").take("s")
    assert admin.execute("SELECT version FROM schema_version").fetchone() == (len(MIGRATIONS),)


def test_the_next_holder_learns_of_the_requests_that_the_former_one_sent_until_it_was_killed(replica, admin):
    first, second = replica("a"), replica("b")
    first.request_ages = [7.0, 2.0]
    first.take("s", "other")
    first.renew()
    first.time += 1.0
    first.request_ages = [8.0, 3.0, 0.5]
    first.renew()  # the lease is not due, but its credential was used
    expire(admin)
    second.take("s", "other")
    assert second.inherited_ages == pytest.approx([8.0, 3.0, 0.5], abs=1.0)


def test_the_next_holder_learns_of_the_requests_before_a_lease_was_handed_back(replica):
    first, second = replica("a"), replica("b")
    first.take("s")
    first.request_ages = [7.0]
    first.hand_back("s")
    second.take("s")
    assert second.inherited_ages == pytest.approx([7.0], abs=1.0)
    second.take("other")
    assert second.inherited_ages == []


def test_a_lease_whose_credential_is_not_used_is_renewed_only_when_due(replica, admin):
    only = replica("a")
    only.take("s")
    only.request_ages = [7.0]
    only.renew()
    before = admin.execute("SELECT until FROM leases WHERE source = 's'").fetchone()
    only.time += 1.0
    only.request_ages = [8.0]
    only.renew()
    assert admin.execute("SELECT until FROM leases WHERE source = 's'").fetchone() == before


def test_no_request_is_sent_without_a_lease_whatever_the_database_does(replica):
    one, sent = replica("one"), []

    def answer(request):
        sent.append(request)
        return httpx.Response(200, json=[])

    source = {"name": "s", "type": "strait", "auth": {"api_key": "k"}}
    config = loads(yaml.safe_dump({"sources": [source]}), {}, KNOWN_NAMES)
    metrics = RequestMetrics(CollectorRegistry())
    assembly = Assembly(config, one.ledger, metrics, NoPublisher(), Clocks(transport=httpx.MockTransport(answer)))
    with closing(assembly):
        client = assembly.clients["s"]
        with pytest.raises(Stopped):
            client.get("/x", endpoint="/x")
        one.take("s")
        client.get("/x", endpoint="/x")
        one.time += LONGEST_SILENCE  # it was not renewed, and nothing reported that
        with pytest.raises(Stopped):
            client.get("/x", endpoint="/x")
    assert len(sent) == 1


def test_a_locked_row_keeps_only_its_own_source_from_being_renewed(replica, url):
    only = replica("a")
    only.take("s")
    only.take("other")
    with psycopg.connect(url) as locking:
        locking.execute("SELECT 1 FROM leases WHERE source = 's' FOR UPDATE")
        only.time += LONGEST_SILENCE - 1
        only.renew()
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


def test_counts_of_the_exporter_from_several_replicas_add_up(replica):
    first, second = replica("a"), replica("b")
    for each in (first, second, first):
        exporter = copy(each.ledger.committed.exporter)
        exporter.count("family", "label")
        each.ledger.replace([exporter])
    second.ledger.reload(["s"])
    assert second.ledger.committed.exporter.counts["family"]["label"].value == 3


@pytest.mark.parametrize("failure", ["fails", "loses"])
def test_a_row_that_waits_for_the_end_of_a_poll_is_counted_once_even_if_its_commit_fails(replica, failure):
    only = replica("a")
    only.take("s")
    only.poll("1", result=None, end=None)
    only.poll("2", started=1.0, now=1001.0)
    poll = PollContext(now=1002.0, started=1002.0, load=only.ledger.start_poll("s", 1002.0))
    only.ledger.commit("s", Batch(runs=[run("1", start=10.0, result=Result.SUCCESS)]), poll)
    setattr(only.pool, failure, True)
    with pytest.raises(StateError):
        only.ledger.expire_open_runs("s", poll)
    setattr(only.pool, failure, False)
    only.ledger.start_poll("s", 1003.0)  # the source does not show a committed row again
    only.ledger.start_poll("s", 1004.0)
    assert only.successes() == 2
    assert only.ledger.open_runs("s") == []
