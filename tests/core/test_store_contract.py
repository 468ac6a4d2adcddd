"""Behavior that the ledger relies on, tested with every kind of storage."""

from contextlib import suppress

import msgspec
import pytest

from exporter.counting.classify import CountState
from exporter.counting.latest import Streak
from exporter.counting.records import Counted, JobState, SourceState
from exporter.model import Job, Result, State, Window
from exporter.state.connections import Pool
from exporter.state.postgres import PostgresStore
from exporter.state.schema import StepState, StoredRun
from exporter.state.store import Store
from tests.core.ledger_harness import run

SOURCES = tuple(SourceState(name=name, identity=f"api of {name}", baseline=1.0) for name in ("s", "other"))
JOBS = tuple(
    JobState(
        key=key, source=source, job=Job(job_id=f"j{key}", name="j"), project="", name="j", discovered=0, baseline=0
    )
    for key, source in enumerate(("s", "s", "other"), start=1)
)


def row(run_id, job=1, mark=CountState.COUNTED, seen=900.0, **fields):
    fields.setdefault("result", None if mark is CountState.OPEN else Result.SUCCESS)
    return StoredRun(run=run(run_id, **fields), mark=mark, job=job, seen=seen, origin=0.0)


def fill(store, **rows):
    with store.transaction():
        for source in SOURCES:
            store.put_source(source)
        store.put_jobs(JOBS)
        for name, each in rows.items():
            store.put_runs(name, each)


@pytest.fixture(params=["a file", "PostgreSQL"])
def opened(request, tmp_path):
    """Open the storage; close the one opened before, like a restart."""
    stores = []
    if request.param == "PostgreSQL":
        url = request.getfixturevalue("postgres_server").new_database()

    def again():
        if stores:
            stores.pop().close()
        postgres = request.param == "PostgreSQL"
        stores.append(PostgresStore(Pool(url)) if postgres else Store(tmp_path / "state.db"))
        stores[0].load()
        return stores[0]

    yield again
    stores.pop().close()


@pytest.fixture
def store(opened):
    return opened()


def everything(store):
    loaded = store.load()
    return loaded.sources, loaded.jobs, loaded.open_runs, loaded.exporter, store.count_runs("s")


def test_a_new_store_is_empty(store):
    assert everything(store) == ([], [], [], Counted(), {})


def test_written_records_survive_a_restart(opened):
    counted = Counted()
    counted.count("family", "label")
    rows = [row("ended", start=1, end=2), row("open", mark=CountState.OPEN)]
    store = opened()
    fill(store, s=rows)
    with store.transaction():
        store.put_exporter(counted)
    store = opened()
    assert everything(store) == (list(SOURCES), list(JOBS), [("s", rows[1])], counted, {1: 2})
    assert store.runs("s", ["ended", "open", "unknown"]) == {"ended": rows[0], "open": rows[1]}
    assert store.runs("other", ["ended"]) == {}


def test_a_transaction_that_fails_leaves_nothing_behind(opened):
    store = opened()
    fill(store, s=[row("before", mark=CountState.OPEN)])
    before = everything(store)
    with suppress(ZeroDivisionError), store.transaction():
        store.put_source(msgspec.structs.replace(SOURCES[0], baseline=2.0))
        store.put_jobs([msgspec.structs.replace(JOBS[0], name="another")])
        store.put_runs("s", [row("before", result=Result.FAILURE), row("new")])
        store.put_exporter(Counted(counts={"family": {}}))
        store.prune("s", 1e9, 10)
        raise ZeroDivisionError
    assert everything(store) == before
    assert everything(opened()) == before


def test_a_transaction_can_read_its_own_writes(store):
    fill(store)
    with store.transaction():
        store.put_runs("s", [row("r", start=1, end=2, result=Result.FAILURE)])
        assert store.runs("s", ["r"])
        assert store.streak(1) == Streak(last_success=None, failures=1, since=2)


def test_records_and_rows_replace_those_of_the_same_identity(store):
    fill(store, s=[row("r", mark=CountState.OPEN), row("r", start=1, end=2)])
    changed = msgspec.structs.replace(JOBS[0], name="renamed"), msgspec.structs.replace(SOURCES[0], baseline=2.0)
    with store.transaction():
        store.put_jobs([changed[0]])
        store.put_source(changed[1])
    assert everything(store) == ([changed[1], SOURCES[1]], [changed[0], *JOBS[1:]], [], Counted(), {1: 1})


def test_two_sources_may_have_runs_with_the_same_id(store):
    fill(store, s=[row("r", start=1, end=2)], other=[row("r", job=3, start=3, end=4)])
    assert store.runs("s", ["r"])["r"].run.end == 2
    assert store.runs("other", ["r"])["r"].run.end == 4


def test_a_streak_is_counted_from_the_completed_runs_after_the_last_success(store):
    failed = {"result": Result.FAILURE}
    fill(
        store,
        s=[
            row("failed before", end=5, **failed),
            row("well before", end=3),
            row("well", end=10),
            row("failed at the same time", end=10, **failed),
            row("failed", end=20, **failed),
            row("failed without an end", seen=15, result=Result.TIMEOUT),
            row("failed at the baseline", end=30, mark=CountState.BASELINE, result=Result.ERROR),
            row("skipped", end=40, result=Result.SKIP),
            row("given up", end=50, mark=CountState.EXPIRED, result=Result.UNKNOWN),
            row("given up well", end=51, mark=CountState.EXPIRED),
            row("given up failed", end=52, mark=CountState.EXPIRED, **failed),
            row("open", mark=CountState.OPEN),
            row("of another job", job=2, end=60),
        ],
    )
    assert store.streak(1) == Streak(last_success=10, failures=3, since=15)
    assert store.streak(2) == Streak(last_success=60, failures=0, since=None)


def test_due_steps_come_failures_first_and_the_baseline_last(store):
    pending, baseline = {"steps": StepState.PENDING}, {"steps": StepState.BASELINE}
    rows = [
        waiting(row("old", end=1), due=5, **pending),
        waiting(row("new", end=2), due=5, **pending),
        waiting(row("failed", end=0, result=Result.FAILURE), due=5, **pending),
        waiting(row("before", end=9, result=Result.FAILURE, mark=CountState.BASELINE), due=5, **baseline),
        waiting(row("not due", end=3), due=6, **pending),
        waiting(row("open again", mark=CountState.OPEN), due=5, **pending),
        waiting(row("done", end=3), due=5, steps=StepState.COUNTED),
    ]
    theirs = waiting(row("of another source", job=3, end=4), due=5, **pending)
    fill(store, s=rows, other=[theirs])
    due = store.pending_steps("s", 5, 10)
    assert [each.run.run_id for each in due] == ["failed", "new", "old", "before"]
    assert store.pending_steps("s", 5, 2) == due[:2]
    assert store.pending_steps("other", 5, 2) == [theirs]
    assert (store.count_pending_steps("s"), store.count_pending_steps("other")) == (6, 1)


def waiting(stored, **fields):
    return msgspec.structs.replace(stored, **fields)


def test_runs_started_in_a_window_are_found_whether_they_completed_or_not(store):
    fill(
        store,
        s=[
            row("ended", start=100, end=150),
            row("ended at once", start=100, end=100),
            row("of another job", job=2, start=100, end=101),
            row("ended later", start=199, end=5000),
            row("without an end", start=120),
            row("open", start=130, mark=CountState.OPEN),
            row("before", start=99, end=150),
            row("after", start=200, end=201),
            row("open before", start=99, mark=CountState.OPEN),
        ],
        other=[row("of another source", job=3, start=100, end=150)],
    )
    found = store.started_between("s", Window(100, 200))
    assert found == {"ended", "ended at once", "of another job", "ended later", "without an end", "open"}


def test_runs_completed_before_a_time_are_pruned_and_open_runs_never(store):
    kept = [
        row("at the time", start=1, end=100),
        row("seen later", start=1, seen=100),
        row("open", start=1, seen=1, mark=CountState.OPEN),
        row("given up", start=1, seen=1, mark=CountState.EXPIRED),
        row("too old at the baseline", start=1, seen=1, mark=CountState.BASELINE, result=None),
        row("begun later", start=100, end=99),
    ]
    old = [
        row("ended", start=1, end=99),
        row("without an end", start=1, seen=99),
        row("second job", job=2, end=99),
        row("at the baseline", end=99, mark=CountState.BASELINE),
    ]
    fill(store, s=[*kept, *old], other=[row("of another source", job=3, end=99)])
    with store.transaction():
        assert sorted(store.prune("s", 100, 10)[0]) == [1, 1, 1, 2]
    ids = {each.run.run_id for each in (*kept, *old)}
    assert store.runs("s", ids).keys() == {each.run.run_id for each in kept}
    assert store.count_runs("other") == {3: 1}


def test_a_run_is_read_back_unchanged_whether_it_is_full_or_empty(store):
    times = {"created": 0.0, "scheduled": 1.0, "start": 2.0, "end": 3.0, "duration": 0.0, "queue_duration": 2.0}
    texts = {"unmapped": "HALTED", "error_type": "dbt", "recovered": True, "retries": 3, "state": State.EXECUTING}
    everything = StoredRun(
        run=run("everything", result=Result.FAILURE, **times, **texts),
        mark=CountState.BASELINE,
        earlier=(0.5, 1.5),
        job=1,
        seen=900.0,
        origin=2.0,
        steps=StepState.COUNTED,
        tries=2,
        incomplete=1,
        due=0.0,
        step_results="[]",
        statuses="HALTED",
    )
    nothing = StoredRun(run=run("nothing"), mark=CountState.OPEN, job=1, seen=900.0, origin=0.0)
    fill(store, s=[everything, nothing])
    assert store.runs("s", ["everything", "nothing"]) == {"everything": everything, "nothing": nothing}


def test_a_store_reports_its_size(store):
    fill(store, s=[row("r", end=1)])
    assert store.size() > 0


def test_runs_whose_step_requests_failed_wait_behind_all_others(store):
    steps = {"steps": StepState.PENDING, "due": 0.0}
    vain = [msgspec.structs.replace(row(f"vain-{tries}", end=900.0), **steps, tries=tries) for tries in (9, 1)]
    fill(store, s=[*vain, msgspec.structs.replace(row("fresh", end=100.0), **steps)])
    waiting = store.pending_steps("s", 1000.0, 100)
    assert [each.run.run_id for each in waiting] == ["fresh", "vain-1", "vain-9"]
    assert [each.run.run_id for each in store.pending_steps("s", 1000.0, 1)] == ["fresh"]


def test_an_id_may_contain_any_character(store):
    ids = ["a\1b", "a\1\2b", "ü", "'", "%s ?", "\\"]
    fill(store, s=[row(each, start=1, end=2) for each in ids])
    assert store.runs("s", ids).keys() == set(ids)


def test_counts_of_the_exporter_are_added_to_the_stored_ones(opened):
    counted = Counted()
    counted.count("family", "label", amount=2)
    store = opened()
    for amount in (1, 1):
        with store.transaction():
            store.put_exporter(counted)
        counted.count("family", "label", amount=amount)
    assert opened().load().exporter.counts["family"]["label"].value == 3


def test_jobs_without_runs_are_found(store):
    fill(store, s=[row("ended", job=1, end=1)])
    assert store.without_runs([1, 2, 99]) == [2]
