"""Lists of runs: filters, order and pages."""

import contextlib
import random
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import StateError
from exporter.model import Job, Result, State
from exporter.queries.errors import QueryError
from exporter.queries.filters import RunQuery
from exporter.queries.reader import Reader
from exporter.queries.run_list import FEW_JOBS, RunSelection
from tests.contract.harness import NOW
from tests.core.ledger_harness import BASELINE, LedgerHarness
from tests.queries.reports_harness import ended, running


def ids(found):
    return [run.run_id for run in found.runs]


def listed(harness, **wanted):
    return ids(harness.reporter.runs(RunQuery(**wanted)))


def test_active_runs_come_first_then_completed_ones_newest_first(harness):
    harness.commit(
        ended("a", NOW + 10), ended("b", NOW + 30), running("o", NOW), running("p", NOW + 1), ended("c", NOW + 20)
    )
    assert listed(harness) == ["p", "o", "b", "c", "a"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"result": Result.FAILURE}, ["bad"]),
        ({"state": State.EXECUTING}, ["runs"]),
        ({"state": State.PENDING}, ["waits"]),
        ({"job_name": "k"}, ["of-k"]),
        ({"job_name": "none"}, []),
        ({"project": "p"}, ["of-p"]),
        ({"project": ""}, ["waits", "runs", "of-k", "bad", "good"]),
        ({"run_id": "bad"}, ["bad"]),
        ({"run_id": "bad", "result": Result.SUCCESS}, []),
        ({"run_id": "bad", "before": NOW + 20}, []),
        ({"after": NOW + 20, "before": NOW + 40}, ["of-k", "bad"]),
        ({"job_name": "j", "result": Result.SUCCESS}, ["good"]),
        ({"source": "one", "limit": 1}, ["waits"]),
    ],
)
def test_each_filter_lists_the_matching_runs(harness, wanted, found):
    harness.commit(
        ended("good", NOW + 10),
        ended("bad", NOW + 20, "failure"),
        ended("of-k", NOW + 30, job="k"),
        ended("of-p", NOW + 40, job="q"),
        running("runs", NOW + 1),
        running("waits", NOW + 2, state="pending"),
        jobs=[Job(job_id="q", name="q", project="p")],
    )
    assert listed(harness, **wanted) == found


def test_pages_have_no_gap_while_runs_are_added(harness):
    harness.commit(*(ended(f"{n:03}", NOW + n) for n in range(50)), running("open", NOW))
    first = harness.reporter.runs(RunQuery(limit=20))
    harness.commit(*(ended(f"new-{n}", NOW + 100 + n) for n in range(5)))
    second = harness.reporter.runs(RunQuery(limit=20, cursor=first.cursor))
    third = harness.reporter.runs(RunQuery(limit=20, cursor=second.cursor))
    assert [*ids(first), *ids(second), *ids(third)] == ["open", *(f"{n:03}" for n in reversed(range(50)))]
    assert third.cursor == ""


@settings(max_examples=30)
@given(
    ends=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["success", "failure"]), st.integers(0, 3)), max_size=25
    ),
    limit=st.integers(1, 7),
    jobs=st.sampled_from([None, 3]),
)
def test_pages_add_up_to_the_list_even_if_runs_completed_at_the_same_time(ends, limit, jobs):
    with tempfile.TemporaryDirectory() as folder:
        ledger_harness = LedgerHarness(Path(folder) / "state.db")
        ledger_harness.read(
            *(ended(f"r{n}", BASELINE + end, result, f"j{job}") for n, (end, result, job) in enumerate(ends))
        )
        ledger_harness.close()
        reader = Reader(ledger_harness.path)
        wanted = RunSelection(jobs=None if jobs is None else set(range(1, jobs)))
        whole = reader.runs(wanted, 500)
        assert whole == sorted(whole, key=lambda each: (each.place.at, each.place.run_id), reverse=True)
        assert jobs is not None or len(whole) == len(ends)
        found, place = [], None
        while page := reader.runs(wanted, limit, place):
            found += page
            place = page[-1].place
        assert found == whole


def test_the_list_of_many_jobs_has_the_runs_of_each(harness):
    rng = random.Random(4)  # noqa: S311  # simulated runs are random, not secret
    names = [f"j{n}" for n in range(FEW_JOBS + 5)]
    runs = [ended(f"r{n}", NOW + rng.randrange(500), job=rng.choice(names)) for n in range(400)]
    harness.bench.clock.advance(500)
    harness.commit(*runs, jobs=[Job(job_id=name, name=name, project="p") for name in names])
    expected = [run.run_id for run in sorted(runs, key=lambda run: (run.end, run.run_id), reverse=True)]
    assert listed(harness, project="p", limit=500) == expected
    keys = {job.key for job in harness.bench.ledger.jobs_of("one")}
    found = Reader(harness.bench.state).runs(RunSelection(jobs=set(list(keys)[:FEW_JOBS])), 500)
    assert 300 < len(found) < 400
    assert {each.row.job for each in found} <= keys


def test_a_run_without_an_end_is_placed_when_it_was_first_seen_completed(harness):
    harness.commit(ended("a", NOW - 50), running("lost", NOW))
    harness.bench.clock.advance(10)
    harness.commit(gone=["lost"])
    harness.commit(ended("b", NOW + 20))
    assert listed(harness) == ["b", "lost", "a"]


@pytest.mark.parametrize("cursor", ["x", "e30", "bnVsbA", "W10", "é", "a" * 60_000])
def test_an_invalid_cursor_is_refused(harness, cursor):
    with pytest.raises(QueryError, match="cursor"):
        harness.reporter.runs(RunQuery(cursor=cursor))


def test_an_unknown_source_is_refused_with_the_known_ones(harness):
    with pytest.raises(QueryError, match=r"source: .* one"):
        harness.reporter.runs(RunQuery(source="two"))


def test_runs_of_an_excluded_job_are_still_listed(harness):
    harness.commit(ended("a"), ended("b", job="k"))
    harness.commit(jobs=[Job(job_id="k", name="k")], catalog=True)
    assert sorted(listed(harness)) == ["a", "b"]


def test_a_query_that_takes_too_long_is_interrupted(harness):
    harness.commit(*(ended(f"r{n}", NOW + n) for n in range(50)))
    ticks = iter(range(10**9))
    impatient = Reader(harness.bench.state, monotonic=lambda: float(next(ticks)), timeout=-1.0)
    with impatient.state() as snapshot, pytest.raises(Exception, match="interrupted"):
        list(snapshot._database.execute("SELECT count(*) FROM runs a, runs b, runs c, runs d"))


def test_a_missing_state_is_reported(tmp_path):
    with pytest.raises(StateError, match="there is no state"):
        Reader(tmp_path / "none.db").runs(RunSelection(), 1)
    assert not (tmp_path / "none.db").exists()


def test_an_unreadable_state_is_busy(harness):
    harness.reporter.reader = Reader(harness.bench.state.with_name("gone.db"))
    with pytest.raises(QueryError, match="the state cannot be read"):
        harness.reporter.runs(RunQuery())


def test_reading_waits_for_no_transaction_and_delays_none(harness):
    harness.commit(ended("a"))
    store = harness.bench.ledger.store()
    with harness.bench.ledger.lock, store.transaction():
        store._db.execute("UPDATE runs SET tries = 9")
        assert listed(harness) == ["a"]
    with Reader(harness.bench.state).state() as snapshot:
        assert len(snapshot.runs_of(1)) == 1
        harness.commit(ended("b", NOW + 20))
        assert len(snapshot.runs_of(1)) == 1
    assert listed(harness) == ["b", "a"]


def test_a_state_that_is_locked_is_not_read_without_its_journal(harness):
    reader = Reader(harness.bench.state, timeout=0.05)
    writer = sqlite3.connect(harness.bench.state, isolation_level=None)
    with contextlib.closing(writer):
        harness.bench.ledger.close()
        writer.execute("PRAGMA locking_mode = EXCLUSIVE")
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateError, match="locked"):
            reader.runs(RunSelection(), 1)
    assert reader.complete
