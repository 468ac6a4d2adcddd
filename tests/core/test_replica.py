"""One of several replicas, tick by tick: the leases it takes, the commits it loads, the counters it withholds."""

import time

import msgspec
import psycopg
import pytest
from structlog.testing import capture_logs

from exporter.counting.names import STEPS
from exporter.errors import StateError
from exporter.learning.cadence import DAY
from exporter.ledger.exposing import expose
from exporter.ledger.housekeeping import expire_jobs, prune
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import PollReport
from exporter.metrics.families import COLD_STARTS
from exporter.model import Batch, Result, Step
from exporter.state.postgres_schema import HISTORY
from tests.core.ledger_harness import run
from tests.core.replica_harness import FAMILY, Member, expire, rewind, saved
from tests.e2e.processes import eventually


@pytest.fixture
def member(url):
    made = []

    def make(name, **settings):
        made.append(Member(url, name, **settings))
        return made[-1]

    yield make
    for each in made:
        each.ledger.close()


def polled_again(member, admin, *ids):
    """Let a member notice what it lost, take the source again and read all of it."""
    member.tick()
    expire(admin)
    member.tick()
    assert member.leases.held == {"s"}
    member.parts.poll(*ids)


def steps_read(member, *ids):
    """Read the steps of some runs."""
    step = Step(name="load", start=11.0, end=12.0, duration=1.0, result=Result.SUCCESS)
    for row in member.ledger.pending_steps("s", 1e9, 10):
        if row.run.run_id in ids:
            member.ledger.commit_steps("s", row, [step], PollContext(now=1000.0, started=1000.0))


def steps_withheld(member):
    return "s" in member.replica.ownership().steps_rewound


def test_a_series_that_was_exposed_in_a_lost_commit_is_never_served_as_0_again(member, admin):
    only = member("a")
    only.parts.poll("1", "2")
    kept = saved(admin)
    expose(only.ledger, [(("job", only.ledger.committed.by_id["s", "j"]), FAMILY, "success")])
    rewind(admin, kept)
    polled_again(only, admin, "1", "2", "3")
    assert ("s" in only.replica.rewound, only.series().released) == (True, False)
    only.tick()
    only.tick()
    assert ("s" in only.replica.rewound, only.series().released, only.series().value) == (False, True, 3)


def test_counters_are_withheld_from_the_moment_at_which_older_records_are_loaded(member, admin):
    only = member("a")
    only.parts.poll("1")
    only.tick()
    kept = saved(admin)
    only.parts.poll("1", "2")
    rewind(admin, kept)
    assert only.replica.rewound == frozenset()
    with pytest.raises(StateError):
        only.parts.poll("1", "2", "3")
    only.ledger.load()  # like the next poll, which renders a page before the next tick
    assert (only.series().value, only.replica.rewound) == (1, {"s"})


def test_a_replica_recognizes_a_restored_dump_even_if_it_never_saw_the_lost_commits(member, admin):
    first = member("a")
    first.parts.poll("1")
    first.tick()
    kept = saved(admin)
    first.parts.poll("1", "2")
    first.ledger.close()
    rewind(admin, kept)
    second = member("b")
    assert (second.series().value, "s" in second.replica.rewound) == (1, True)
    polled_again(second, admin, "1", "2", "3")
    assert "s" in second.replica.rewound
    second.tick()
    second.tick()
    assert (second.series().value, "s" in second.replica.rewound) == (3, False)


def test_a_new_replica_recognizes_a_failover_that_lost_all_but_the_first_commit_of_a_source(member, admin):
    only = member("a")
    only.parts.poll("1", "2")
    # Like a standby that received only the creation of the source before it replaced the primary.
    older = f"history = replace(history, {HISTORY}, '00000000'), until = now() - interval '1 s', written = DEFAULT"
    admin.execute(f"UPDATE leases SET {older}")  # noqa: S608  # constants
    late = member("b")
    assert "s" in late.replica.rewound
    late.parts.poll("1", "2", "3")
    late.tick()
    late.tick()
    assert "s" not in late.replica.rewound


def test_a_source_that_was_just_created_has_lost_nothing(member):
    assert not member("a").replica.rewound


def test_counters_of_runs_do_not_wait_for_steps_that_are_read_later(member, admin):
    only = member("a", steps="all")
    only.parts.poll("1")
    only.tick()
    rewind(admin, saved(admin))
    polled_again(only, admin, "1", "2")
    only.tick()
    only.tick()
    owner = only.replica.ownership()
    assert ("s" in owner.rewound, "s" in owner.steps_rewound) == (False, True)
    steps_read(only, "1", "2")
    only.tick()
    only.tick()
    assert "s" not in only.replica.ownership().steps_rewound
    (job,) = only.ledger.committed.jobs.values()
    assert all(count.released for count in job.counts[STEPS].values())


def test_counters_of_polls_continue_from_their_highest_value_after_lost_commits(member, admin):
    only = member("a")
    only.parts.poll("1")
    only.ledger.finish_poll("s", report())
    kept = saved(admin)
    for _ in range(5):
        only.ledger.finish_poll("s", report())
    rewind(admin, kept)
    polled_again(only, admin, "1")
    assert only.polls() == 1
    only.tick()
    assert only.polls() == 6


def report():
    return PollReport(ended=1000.0, duration=1.0, outcome="success")


def test_the_count_of_lost_commits_survives_a_loss_of_its_own_commit(member, admin):
    first, second = member("a"), member("b")
    first.ledger.count_cold_start("rewound")
    second.ledger.reload(["s"])
    admin.execute("UPDATE exporter SET record = '{}'")
    second.ledger.reload(["s"])
    assert member("c").ledger.committed.exporter.counts[COLD_STARTS]["rewound"].value == 1
    first.ledger.count_cold_start("rewound")
    second.ledger.reload(["s"])
    assert [each.ledger.committed.exporter.counts[COLD_STARTS]["rewound"].value for each in (first, second)] == [2, 2]


def test_all_replicas_show_the_same_counters_of_the_exporter(member):
    def shown(member):
        count = member.ledger.committed.exporter.counts[COLD_STARTS]["new"]
        return count.value, count.released

    owner, other = member("a", groups=("s", "other")), member("b", groups=())
    for _ in range(3):
        owner.tick()
    published = owner.published
    other.ledger.count_cold_start("new")
    owner.tick()
    assert owner.published == published + 1
    assert shown(owner) == shown(other) == (1, False)
    expose(other.ledger, [(("exporter",), COLD_STARTS, "new")])
    owner.tick()
    assert shown(owner) == shown(other) == (1, True)


def test_all_replicas_have_step_histograms_or_none_no_matter_when_they_started_and_what_they_poll(member):
    def histograms(*members):
        return [each.ledger.drain().step_histograms for each in members]

    owner, idle = member("a", steps="all"), member("b", steps="all")
    owner.parts.poll("1")
    (row,) = owner.ledger.pending_steps("s", 1e9, 10)
    steps = [Step(name=f"step {number}", result=Result.SUCCESS) for number in range(2001)]
    owner.ledger.commit_steps("s", row, steps, PollContext(now=1000.0, started=1000.0))
    idle.tick()
    assert not idle.leases.held
    later = member("c", steps="all")
    assert histograms(owner, idle, later) == [False, False, False]

    expire_jobs(owner.ledger, 1000.0, job_expiry=100.0)
    for each in (idle, later):
        each.tick()
    assert histograms(owner, idle, later, member("d", steps="all")) == [True, True, True, True]


def test_runs_and_jobs_of_a_source_that_no_config_has_any_more_are_pruned(member):
    before = member("a")
    before.parts.poll("1")
    before.replica.leave()
    after = member("b", sources=("other",), groups=("other",))
    after.parts.poll(source="other", now=40 * DAY)
    with after.replica.holding_removed_sources():
        expire_jobs(after.ledger, 40 * DAY, job_expiry=30 * DAY)
        assert prune(after.ledger, 40 * DAY, retention=30 * DAY) == 1
    assert after.ledger.committed.jobs[after.ledger.committed.by_id["s", "j"]].gone

    returned = member("c")
    assert returned.leases.held == {"s"}
    returned.parts.poll("1", now=40 * DAY)
    assert returned.parts.successes() == 0


def test_all_replicas_see_that_a_removed_source_was_pruned(member):
    before = member("a", steps="all")
    before.parts.poll("1")
    (row,) = before.ledger.pending_steps("s", 1e9, 10)
    steps = [Step(name=f"step {number}", result=Result.SUCCESS) for number in range(2001)]
    before.ledger.commit_steps("s", row, steps, PollContext(now=1000.0, started=1000.0))
    before.replica.leave()
    pruning, idle = (member(name, sources=("other",), groups=("other",)) for name in "bc")
    pruning.parts.poll(source="other", now=40 * DAY)
    with pruning.replica.holding_removed_sources():
        expire_jobs(pruning.ledger, 40 * DAY, job_expiry=30 * DAY)
        prune(pruning.ledger, 40 * DAY, retention=30 * DAY)
    idle.tick()
    assert [each.ledger.drain().step_histograms for each in (pruning, idle)] == [True, True]
    assert idle.ledger.committed.series_total == pruning.ledger.committed.series_total


def test_housekeeping_keeps_the_recorded_requests_of_a_source_that_only_another_config_has(member):
    owner, other = member("a"), member("b", sources=("other",), groups=("other",))
    owner.leases.hand_back(["s"], lambda _name: [7.0, 2.0])
    with other.replica.holding_removed_sources():
        assert other.leases.held == {"other", "s"}
    later = owner.leases.take(["s"])
    assert later == [pytest.approx(7.0, abs=5.0), pytest.approx(2.0, abs=5.0)]


def test_sources_that_another_replica_polls_are_not_taken_as_removed(member):
    owner, other = member("a"), member("b", sources=("other",), groups=("other",))
    with other.replica.holding_removed_sources():
        assert other.leases.held == {"other"}
    owner.tick()
    assert owner.leases.held == {"s"}


def test_a_reload_that_fails_halfway_is_repeated(member):
    first, second = member("a"), member("b")
    first.parts.poll("1", result=None, end=None)
    first.parts.poll("2", started=1.0, now=1001.0)
    poll = PollContext(now=1002.0, started=1002.0, load=first.ledger.start_poll("s", 1002.0))
    first.ledger.commit("s", Batch(runs=[run("1", start=10.0, result=Result.SUCCESS)]), poll)
    first.leases.hand_back(["s"], lambda _name: ())
    second.tick()
    assert second.leases.held == {"s"}
    second.parts.poll("3", started=1003.0, now=1003.0)
    first.parts.store.fails = True
    first.tick()
    first.parts.store.fails = False
    first.tick()
    assert [each.run_id for each in first.ledger.open_runs("s")] == ["1"]


def test_a_rewound_source_is_withheld_from_the_first_page_after_a_reload_adds_it(member, admin):
    owner, other = member("a"), member("b", sources=("other",), groups=("other",))
    owner.parts.poll("1")
    admin.execute("UPDATE leases SET history = '' WHERE source = 's'")
    other.tick()
    # The reload renders a page before the next tick of the replica.
    assert "s" in other.replica.ownership().rewound
    assert "s" in other.replica.ownership().steps_rewound


def test_all_replicas_show_the_same_size_and_time_of_the_last_commit(member):
    first, second = member("a"), member("b")
    first.parts.poll("1")
    for each in (first, second, first, second):
        each.tick()
    shown = {(each.replica.ownership().state_size, each.replica.ownership().last_commit) for each in (first, second)}
    assert len(shown) == 1
    assert all(shown.pop())


def test_a_former_primary_is_neither_read_nor_written(member):
    only = member("a")
    only.parts.poll("1")
    (row,) = [row for row in only.leases.read_all() if row.source == "s"]
    only.leases.confirm([msgspec.structs.replace(row, current="000000FF")])
    with pytest.raises(StateError, match="former primary"):
        only.leases.read_all()
    with pytest.raises(StateError):
        only.parts.poll("1", "2")
    assert only.leases.take(["other"]) is None


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda leases, _rows: leases.renew(lambda _source: []), id="renew"),
        pytest.param(lambda leases, rows: leases.record_history(rows, "x"), id="record_history"),
        pytest.param(lambda leases, _rows: leases.mark_rewound(["s"]), id="mark_rewound"),
        pytest.param(lambda leases, _rows: leases.hand_back(["s"], lambda _source: []), id="hand_back"),
    ],
)
def test_no_operation_on_leases_waits_long_for_a_locked_row(member, url, write):
    only = member("a")
    with psycopg.connect(url) as locking:
        locking.execute("LOCK TABLE leases IN SHARE MODE")
        only.parts.time += 5.0
        rows = [row for row in only.leases.seen.values() if row.source == "s"]
        with pytest.raises(StateError, match="lock timeout"):
            write(only.leases, rows)


def test_step_counters_are_served_and_stay_zero_first_while_other_steps_are_pending(member):
    only = member("a", steps="all")
    only.parts.poll("1", "2")
    only.tick()
    only.tick()
    steps_read(only, "1")
    only.tick()
    only.tick()
    assert only.ledger.store().count_pending_steps("s") == 1
    assert not steps_withheld(only)
    (job,) = only.ledger.committed.jobs.values()
    assert [count.released for count in job.counts[STEPS].values()] == [False, False]


def test_steps_of_runs_that_ended_after_commits_were_lost_withhold_no_step_counters(member, admin):
    only = member("a", steps="all")
    only.parts.poll("1")
    only.tick()
    rewind(admin, saved(admin))
    polled_again(only, admin, "1")
    only.tick()
    only.tick()
    assert steps_withheld(only)
    only.parts.poll("2", now=time.time() + 7200, end=time.time() + 3600)
    steps_read(only, "1")
    only.tick()
    only.tick()
    assert only.ledger.store().count_pending_steps("s") == 1
    assert not steps_withheld(only)


def test_a_scrape_of_an_older_page_does_not_count_for_a_newer_one(member, admin):
    def served():
        return msgspec.json.decode(admin.execute("SELECT served FROM replicas").fetchone()[0])

    only = member("a")
    only.replica.pages.scraped(-1)
    only.tick()
    assert served() == {"s": -1, "other": -1}
    only.replica.pages.scraped(0)
    only.tick()
    assert served() != {"s": -1, "other": -1}


def test_after_a_takeover_a_value_still_waits_for_a_scrape_of_its_0(member):
    owner, other = member("a"), member("b")
    owner.parts.poll("1")
    other.tick()
    series = ("job", next(iter(other.ledger.committed.jobs))), FAMILY, "success"
    other.zero_first.shown(0, [series])
    owner.replica.leave()
    other.parts.time += other.zero_first.zero_first
    other.tick()
    other.tick()
    assert other.leases.held == {"s"}
    assert other.zero_first.due() == []
    other.replica.pages.scraped(0)
    other.tick()
    assert other.zero_first.due() == [series]


def test_commits_lost_after_the_last_check_still_have_to_be_read_again(member, admin):
    only = member("a")
    only.parts.poll("1")
    kept = saved(admin)
    only.parts.poll("1", "2")
    (row,) = [row for row in only.leases.read_all() if row.source == "s"]
    rewind(admin, kept)
    only.leases.record_history([row], row.current)
    (row,) = [row for row in only.leases.read_all() if row.source == "s"]
    assert row.rewound


def test_counters_of_takeovers_start_at_0(member):
    first, second = member("a"), member("b")
    first.tick()
    second.tick()
    assert [each.replica.ownership().taken for each in (first, second)] == [{"s": 1}, {"s": 0}]


def test_a_poll_that_asked_before_records_were_loaded_again_neither_writes_nor_completes(member):
    only = member("a")
    load = only.ledger.start_poll("s", 0.0)
    only.ledger.reload(["s"])
    late = PollContext(now=1000.0, started=1000.0, load=load)
    with pytest.raises(StateError, match="loaded again"):
        only.ledger.commit("s", Batch(runs=[], jobs=[], through=1000.0), late)
    with pytest.raises(StateError, match="loaded again"):
        only.ledger.complete_poll("s", late, swept=False)
    assert "s" in only.ledger.starting


def test_counters_stay_withheld_until_every_scope_was_read_again(member, admin):
    only = member("a")
    only.parts.poll("1")
    only.tick()
    kept = saved(admin)
    only.parts.poll("1", "2", now=2000.0)
    rewind(admin, kept)
    only.tick()
    expire(admin)
    only.tick()
    for now, through, withheld in ((2060.0, 1000.0, True), (2120.0, 1999.0, True), (2180.0, 2000.0, False)):
        only.parts.poll("1", "2", now=now, started=now, through=through)
        only.tick()
        only.tick()
        assert ("s" in only.replica.rewound) == withheld


def test_a_replica_whose_config_names_another_api_neither_takes_nor_counts_the_source(member):
    right, wrong = member("a"), member("b", api="another api")  # both start before the first poll
    right.parts.poll("1")
    right.replica.hand_back()
    wrong.tick()
    assert "the state has the runs of api, but the configuration names another api" in wrong.replica.stale()
    wrong.tick()
    assert wrong.leases.held == frozenset()
    assert wrong.parts.take("s")
    with pytest.raises(StateError, match="names another api"):
        wrong.parts.poll("2")
    wrong.parts.hand_back("s")
    right.tick()
    assert (right.leases.held, right.series().value) == ({"s"}, 1)


def test_an_outage_of_the_database_is_logged_once_with_its_reason_and_once_when_it_is_over(
    member, postgres_server, url
):
    only, name = member("a"), url.rpartition("/")[2]
    with postgres_server.connect() as other, capture_logs() as logs:
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        for _ in range(3):
            only.tick()
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        only.parts.pool.reconnect()
        assert eventually(lambda: only.tick() or not only.replica.stale())
    events = [entry["event"] for entry in logs if entry["event"].startswith("state")]
    assert events == ["state cannot be read", "state can be read again"]
    assert name in next(entry["error"] for entry in logs if "error" in entry)


def test_sources_that_only_one_config_has_are_polled_although_that_is_more_than_a_share(member):
    older = [member(name, groups=["s"], sources=["s"]) for name in ("a", "b")]
    newer = member("c", groups=["s", "other", "more"], sources=["s", "other", "more"])
    for _ in range(5):
        for each in (*older, newer):
            each.tick()
    assert [each.leases.held for each in older] == [{"s"}, frozenset()]
    assert newer.leases.held == {"other", "more"}


def test_a_source_that_only_one_config_has_is_polled_by_a_replica_that_already_has_its_share(member):
    first = member("a", groups=["s", "other"], sources=["s", "other", "new"])
    assert first.leases.held == {"s", "other"}
    second = member("b", groups=["s", "other"])
    first.groups.append("new")
    for _ in range(3):
        first.tick()
        second.tick()
    assert "new" in first.leases.held
    assert first.leases.held | second.leases.held == {"s", "other", "new"}
    assert len(second.leases.held) == 1
