import sqlite3
import subprocess
import sys

import msgspec
import pytest

from exporter.counting.counters import CountingRules
from exporter.counting.labels import OTHER
from exporter.counting.series import MAX_BOUNDS
from exporter.errors import StateError
from exporter.ledger.batch_writer import MAX_UNMAPPED
from exporter.ledger.exposing import expose
from exporter.ledger.housekeeping import PRUNE_BATCH, expire_jobs, prune
from exporter.ledger.journal import IdentityError
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.ledger.scope_writer import MAX_RANGES
from exporter.metrics.families import UNOBSERVED
from exporter.metrics.samples import last_failed_run
from exporter.metrics.zero_first import Owner
from exporter.model import Batch, Disposition, Job, Listing, Result, State, Step, Window
from exporter.snapshot.job import JobView
from exporter.state.lock import Lock, LockedStateError
from exporter.state.opening import OpenedState, open_state
from exporter.state.schema import StepState
from exporter.state.store import Store
from tests.core.ledger_harness import BASELINE, DURATIONS, RUNS, Failing, LedgerHarness, ended, rules, run, success

DAY = 86400.0
STEPS = "jobrun_steps_total"


def opened(run_id="r", **fields):
    return run(run_id, **{"state": State.EXECUTING, "start": BASELINE + 10, **fields})


# --- one transaction ---


def test_a_batch_is_committed_completely_and_survives_a_restart(harness):
    harness.read(ended(), opened("o"), checkpoints={"page": "7"})
    harness.reopen()
    state = harness.ledger.source("s")
    assert harness.counts() == {"success": 1}
    assert [each.run_id for each in harness.ledger.open_runs("s")] == ["o"]
    assert (state.baseline, state.watermark(), state.checkpoints) == (BASELINE, BASELINE - 60, {"page": "7"})


def test_a_failing_commit_changes_nothing_in_memory_or_on_disk(harness):
    harness.read(ended("a"), opened("o"))
    harness.ledger.drain()
    Failing.fails = True
    with pytest.raises(StateError):
        harness.read(
            ended("b", BASELINE + 200), ended("o", BASELINE + 210), through=BASELINE + 300, checkpoints={"n": "1"}
        )
    Failing.fails = False
    for again in (False, True):
        if again:
            harness.reopen()
        state = harness.ledger.source("s")
        assert harness.counts() == {"success": 1}
        assert [each.run_id for each in harness.ledger.open_runs("s")] == ["o"]
        assert (state.watermark(), state.checkpoints) == (BASELINE - 60, {})
        assert harness.row("b") is None
    harness.read(ended("b", BASELINE + 200), ended("o", BASELINE + 210))
    assert harness.counts() == {"success": 3}


def test_a_first_commit_that_fails_leaves_no_trace_of_its_jobs(harness):
    Failing.fails = True
    with pytest.raises(StateError):
        harness.read(ended())
    Failing.fails = False
    assert harness.ledger.jobs_of("s") == []
    assert harness.ledger.source("s").baseline is None
    harness.read(ended())
    assert harness.counts() == {"success": 1}


def test_a_process_that_dies_inside_a_transaction_loses_only_that_transaction(harness):
    harness.read(ended("a"))
    harness.close()
    script = (
        "import os, sys; from tests.core.ledger_harness import *; from pathlib import Path\n"
        "harness = LedgerHarness(Path(sys.argv[1])); put = harness.ledger.store().put_jobs\n"
        "harness.ledger._store.put_jobs = lambda jobs: (put(jobs), os._exit(9))\n"
        "harness.read(ended('b', BASELINE + 200))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(harness.path)], check=False)  # noqa: S603  # our own words
    harness.open()
    assert done.returncode == 9
    assert harness.counts() == {"success": 1}
    harness.read(ended("b", BASELINE + 200))
    assert harness.counts() == {"success": 2}


# --- baselines ---


def test_runs_completed_before_the_first_poll_change_gauges_only(harness):
    harness.read(ended(end=BASELINE - 5), ended("at", end=BASELINE))
    assert harness.counts() == {}
    assert (harness.job().last_run.run_id, harness.job().last_success) == ("at", BASELINE)


def test_a_completed_run_without_an_end_in_a_later_window_of_the_first_poll_is_baseline(harness):
    old = run("b", result=Result.FAILURE, start=BASELINE - 3600)
    job = [Job(job_id="j", name="j")]
    first = Batch(jobs=job, through=BASELINE - 10_000)
    second = Batch(runs=[old, run("c", result=Result.SKIP)], through=BASELINE - 60)
    harness.poll(first, second)
    assert harness.counts() == {}
    harness.read(
        run("d", result=Result.FAILURE, start=BASELINE - 1),  # it would have been shown as active
        run("e", result=Result.FAILURE, start=BASELINE + 1),
        run("f", result=Result.FAILURE),
    )
    assert harness.counts() == {"failure": 2}


def test_a_job_included_later_counts_from_that_time(harness):
    harness.configure(exclude=("j",))
    harness.read(ended("a"), ended("x", job_id="other"))
    harness.configure(exclude=())
    harness.now = BASELINE + 500
    harness.read(ended("a"), ended("b", BASELINE + 400), ended("c", BASELINE + 600), ended("y", BASELINE + 400))
    harness.read(run("d", result=Result.FAILURE, start=BASELINE + 300))
    assert harness.counts() == {"success": 1}
    assert harness.counts("other") == {"success": 1}


def test_a_job_that_is_first_seen_after_it_was_included_counts_from_that_time_too(harness):
    harness.configure(exclude=("j",))
    harness.read(ended("x", job_id="other"))
    harness.configure(exclude=())
    harness.now = BASELINE + 500
    harness.read(ended("x", job_id="other"))
    harness.read(ended("b", BASELINE + 400), ended("c", BASELINE + 600))
    assert harness.counts() == {"success": 1}


def test_a_job_excluded_for_a_while_does_not_count_runs_completed_meanwhile(harness):
    harness.read(ended("a"), opened("o"), opened("p"))
    harness.configure(exclude=("j",))
    harness.read(ended("b", BASELINE + 110), ended("o", BASELINE + 110))
    harness.configure(exclude=())
    harness.now = BASELINE + 500
    harness.read(ended("b", BASELINE + 110), ended("o", BASELINE + 110), ended("c", BASELINE + 501))
    assert harness.counts() == {"success": 2}
    harness.read(ended("p", BASELINE + 700))
    assert harness.counts() == {"success": 3}


def test_a_scope_that_was_unreadable_counts_from_when_it_becomes_readable(harness):
    def job(scope):
        return [Job(job_id=scope, name=scope, scope=scope)]

    harness.poll(
        Batch(scope="a", jobs=job("a"), runs=[ended("a1", job_id="a")], through=BASELINE),
        Batch(scope="b", readable=False),
    )
    assert harness.ledger.source("s").watermark() == BASELINE
    harness.now = BASELINE + 1000
    ending = ended("b1", BASELINE + 900, job_id="b"), ended("b2", BASELINE + 1001, job_id="b")
    harness.poll(Batch(scope="b", jobs=job("b"), runs=ending, through=BASELINE + 990))
    assert (harness.counts("a"), harness.counts("b")) == ({"success": 1}, {"success": 1})


def test_a_scope_found_later_counts_from_the_last_list_without_it(harness):
    def batch(scope, listing, *runs):
        return Batch(scope=scope, jobs=[Job(job_id=scope, name=scope, scope=scope)], runs=runs, listing=listing)

    both = Listing(BASELINE + 1, frozenset("ab"))
    harness.poll(batch("a", both))
    # b was listed together with a but read by a later poll: it counts from the source's baseline
    harness.now = BASELINE + 300
    harness.poll(batch("b", both, ended("b1", BASELINE + 2, job_id="b")))
    harness.now = BASELINE + 1000
    third = Listing(BASELINE + 900, frozenset("abc"))
    harness.poll(batch("c", third, ended("c1", BASELINE, job_id="c"), ended("c2", BASELINE + 2, job_id="c")))
    harness.now = BASELINE + 1500
    ends = [ended("d1", BASELINE + 899, job_id="d"), ended("d2", BASELINE + 901, job_id="d")]
    harness.poll(batch("d", Listing(BASELINE + 1400, frozenset("abcd")), *ends))
    assert [harness.counts(scope) for scope in "bcd"] == [{"success": 1}] * 3


def test_the_watermark_is_the_minimum_of_the_readable_scopes_and_never_falls(harness):
    harness.now = BASELINE + 60
    harness.poll(Batch(scope="a", through=BASELINE + 50), Batch(scope="b", through=BASELINE + 10))
    assert harness.ledger.source("s").watermark() == BASELINE + 10
    harness.poll(Batch(scope="b", through=BASELINE - 10), Batch(scope="a", through=BASELINE + 55))
    assert harness.ledger.source("s").watermark() == BASELINE + 10
    harness.poll(Batch(scope="b", readable=False))
    assert harness.ledger.source("s").watermark() == BASELINE + 55


def test_a_watermark_set_by_a_wrong_clock_is_corrected(harness):
    harness.read(ended(), through=BASELINE + DAY)
    harness.read(through=BASELINE + 50)
    assert harness.ledger.source("s").watermark() == BASELINE + 50


# --- forgetting ---


def test_pruned_runs_that_are_listed_again_do_not_count_again(harness):
    harness.read(ended("a"), run("endless", result=Result.FAILURE, start=BASELINE + 5))
    harness.now = BASELINE + 40 * DAY
    harness.read(ended("b", harness.now - 100))
    assert prune(harness.ledger, harness.now, 30 * DAY) == 2
    assert harness.row("a") is None
    for _ in range(2):
        harness.read(ended("a"), run("endless", result=Result.FAILURE, start=BASELINE + 5))
        assert harness.counts() == {"success": 2, "failure": 1}
        harness.reopen()


def test_a_streak_survives_the_pruning_of_the_runs_that_made_it(harness):
    harness.read(
        *(ended(str(n), BASELINE + n, result=Result.FAILURE) for n in range(2, 9)), ended("good", BASELINE + 1)
    )
    harness.now = BASELINE + 40 * DAY
    harness.read(ended("new", harness.now - 100, result=Result.FAILURE))
    prune(harness.ledger, harness.now, 30 * DAY)
    harness.read(ended("new", harness.now - 90, result=Result.FAILURE))
    assert (harness.job().streak, harness.job().last_success) == (8, BASELINE + 1)


def test_a_clock_that_is_far_ahead_prunes_nothing(harness):
    harness.read(ended())
    assert prune(harness.ledger, BASELINE + 1000 * DAY, 30 * DAY) == 0
    harness.read(ended())
    assert harness.counts() == {"success": 1}


def test_open_and_expired_runs_are_never_pruned(harness):
    harness.read(opened("o"))
    harness.now = BASELINE + 8 * DAY
    harness.read(opened("young", start=harness.now))
    harness.now = BASELINE + 60 * DAY
    harness.begin()
    harness.read(opened("o"), opened("young", start=BASELINE + 8 * DAY))
    prune(harness.ledger, harness.now, 30 * DAY)
    harness.read(opened("o"))
    assert harness.counts() == {"unknown": 2}


def test_a_run_expires_once_and_its_later_completion_is_not_counted(harness):
    harness.read(opened("o"), opened("scheduled", start=None, created=BASELINE, scheduled=BASELINE + 30 * DAY))
    harness.now = BASELINE + 8 * DAY
    harness.read()
    assert harness.counts() == {"unknown": 1}
    assert (harness.job().last_run, harness.job().streak) == (None, 0)
    harness.read(ended("o", harness.now - 5, result=Result.FAILURE))
    assert harness.counts() == {"unknown": 1}
    assert harness.job().last_run.result is Result.FAILURE
    assert DURATIONS not in harness.job().distributions


def test_polls_with_errors_do_not_expire_a_run_for_15_minutes(harness):
    harness.read(opened("late"), opened("lost"))
    harness.now = BASELINE + 8 * DAY
    read = Batch(through=harness.now - 60)
    harness.poll(read, failed=True)
    harness.poll(read, failed=True, advance=900.0)
    assert harness.counts() == {}
    harness.read(ended("late"))
    assert harness.counts() == {"success": 1, "unknown": 1}


def test_a_run_expires_although_some_request_fails_in_each_poll(harness):
    harness.read(opened("lost"))
    harness.now = BASELINE + 8 * DAY
    read = Batch(through=harness.now - 60)
    harness.poll(read, failed=True, advance=899.0)
    harness.poll(read, failed=True, advance=1.0)
    assert harness.counts() == {}
    harness.poll(read, failed=True)
    assert harness.counts() == {"unknown": 1}


def test_a_completed_run_corrected_to_success_is_no_longer_a_failure(harness):
    harness.read(ended("e", BASELINE + 50, result=Result.FAILURE, error_type="Early"))
    harness.read(ended("f", BASELINE + 60, result=Result.FAILURE, error_type="Boom"))
    harness.now += 100
    harness.read(ended("f", BASELINE + 60))
    job = harness.job()
    assert (job.last_run.run_id, job.last_failure.run_id, job.last_failure.error_type) == ("f", "e", "Early")
    harness.read(ended("e", BASELINE + 50))
    assert (harness.job().last_failure, harness.job().streak) == (None, 0)


def test_a_run_whose_end_is_corrected_to_before_another_one_is_not_the_last(harness):
    harness.read(ended("x", BASELINE + 50), ended("y", BASELINE + 40, result=Result.FAILURE))
    harness.now += 100
    harness.read(ended("x", BASELINE + 30))
    assert (harness.job().last_run.run_id, harness.job().streak) == ("y", 1)


def test_a_streak_without_any_success_survives_the_pruning(harness):
    harness.read(*(ended(str(n), BASELINE + n, result=Result.FAILURE) for n in range(1, 11)))
    harness.now = BASELINE + 40 * DAY
    harness.read(ended("new", harness.now - 100, result=Result.FAILURE))
    prune(harness.ledger, harness.now, 30 * DAY)
    harness.read(ended("new", harness.now - 200, result=Result.FAILURE))
    assert (harness.job().streak, harness.job().failing_since) == (11, BASELINE + 1)


def test_labels_of_the_last_failure_are_cleaned_and_truncated_like_others(harness):
    dirty = "x" * 300 + "\n"
    harness.read(
        ended("r", result=Result.FAILURE, error_type=dirty), steps={"r": [Step(name=dirty, result=Result.FAILURE)]}
    )
    ((labels, _),) = last_failed_run(JobView(state=harness.job()))
    assert labels == ("r", "", "x" * 200, "x" * 200)
    harness.read(ended("old\t" + "y" * 300, BASELINE + 200, result=Result.FAILURE, error_type="a\tb"))
    ((labels, _),) = last_failed_run(JobView(state=harness.job()))
    assert (len(labels[0]), labels[3]) == (200, "a b")


def test_runs_pruned_before_their_steps_were_fetched_are_counted_as_lost_steps(harness):
    harness.read(ended("a"), ended("old", BASELINE - 5))
    harness.now = BASELINE + 40 * DAY
    harness.read(ended("b", harness.now - 100))
    assert prune(harness.ledger, harness.now, 30 * DAY) == 2
    assert harness.ledger.source("s").counts["jobrun_source_steps_lost_total"][""].value == 1
    assert harness.ledger.store().count_pending_steps("s") == 1


def test_many_runs_are_pruned_in_several_transactions(harness):
    harness.read(*(ended(str(n), BASELINE + 1 + n / 1e6) for n in range(PRUNE_BATCH + 5)))
    harness.now = BASELINE + 40 * DAY
    harness.read()
    assert prune(harness.ledger, harness.now, 30 * DAY) == PRUNE_BATCH + 5
    assert prune(harness.ledger, harness.now, 30 * DAY) == 0
    assert harness.path.with_name("state.db-wal").stat().st_size == 0


def remove_source(harness, *, through):
    """Configure another source in place of the harness's, and read that one so far."""
    other = rules(name="t", identity="api two")
    harness.ledger.configure({"t": other}, CountingRules(step_buckets=(), zero_first=False), "on")
    poll_context = PollContext(now=through, started=through)
    harness.ledger.start_poll("t", through)
    harness.ledger.commit("t", Batch(through=through), poll_context)
    harness.ledger.complete_poll("t", poll_context, swept=False)
    harness.ledger.finish_poll("t", success(through))


def test_runs_of_a_source_that_is_no_longer_configured_are_pruned(harness):
    harness.read(ended("a"))
    remove_source(harness, through=BASELINE + 40 * DAY)
    assert prune(harness.ledger, BASELINE + 40 * DAY, 30 * DAY) == 1
    harness.configure()
    harness.read(ended("a"))
    assert harness.counts() == {"success": 1}


def test_a_clock_that_is_ahead_while_a_source_is_removed_loses_no_completion(harness):
    harness.read(ended("a"))
    remove_source(harness, through=BASELINE + 3600)
    assert prune(harness.ledger, BASELINE + 1000 * DAY, 30 * DAY) == 0
    harness.configure()
    harness.now = BASELINE + 7200
    harness.read(ended("a"), ended("b", BASELINE + 5000))
    assert harness.counts() == {"success": 2}


def test_nothing_is_pruned_while_no_configured_source_knows_the_time(harness):
    harness.read(ended("a"))
    harness.ledger.configure({}, CountingRules(step_buckets=(), zero_first=False), "on")
    assert prune(harness.ledger, BASELINE + 40 * DAY, 30 * DAY) == 0


def test_jobs_gone_for_longer_than_the_retention_are_deleted(harness):
    harness.read(ended("a"), jobs=[Job(job_id="j", name="j")], catalog=True)
    for _ in range(2):
        harness.now += 1000
        harness.read(jobs=[], catalog=True)
    key, before = harness.job().key, len(harness.ledger.committed.jobs)
    assert (harness.job().counts, harness.job().distributions) == ({}, {})
    harness.now += 31 * DAY
    harness.read(jobs=[], catalog=True)
    prune(harness.ledger, harness.now, 30 * DAY)
    for _ in range(2):
        assert len(harness.ledger.committed.jobs) == before - 1
        assert key not in harness.ledger.committed.series
        harness.reopen()
    harness.read(ended("b", harness.now - 1), jobs=[Job(job_id="j", name="j")], catalog=True)
    assert harness.counts() == {"success": 1}


# --- the file ---


def test_the_lock_refuses_a_second_process_and_ends_with_the_first(tmp_path):
    first = Lock(tmp_path / "state.db")
    with pytest.raises(LockedStateError, match="another jobrun-exporter"):
        Lock(tmp_path / "state.db")
    first.release()
    Lock(tmp_path / "state.db").release()


def test_another_api_under_an_old_name_is_refused_and_changes_nothing(harness):
    harness.read(ended())
    with pytest.raises(IdentityError, match="give the source a new name"):
        harness.configure(identity="api two")
    harness.read(ended("b", BASELINE + 200))
    assert harness.counts() == {"success": 2}


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\x00" + b"x" * 5000])
def test_a_corrupt_file_is_set_aside_and_counted(harness, damage):
    harness.read(ended())
    harness.close()
    harness.path.write_bytes(damage)
    harness.open()
    kept = harness.path.with_name(f"state.db.corrupt-{int(harness.now)}")
    assert kept.read_bytes() == damage
    assert harness.ledger.committed.exporter.counts["jobrun_exporter_state_cold_starts_total"]["corrupt"].value == 1
    harness.read(ended())
    assert harness.counts() == {"success": 1}


def test_a_state_that_cannot_be_written_is_still_read(harness):
    harness.read(ended())
    harness.close()

    def refuse(*_args, **_kwargs):
        raise sqlite3.OperationalError("unable to open database file")

    found = open_state(harness.path, lambda: 5.0, refuse)
    assert found.store is None
    assert "unable to open" in found.error
    assert found.loaded.jobs[0].counts[RUNS]["success"].value == 1


def test_migrations_are_applied_once_and_keep_what_is_there(harness):
    harness.read(ended())
    harness.close()
    store = Store(harness.path)
    assert store.load().jobs[0].counts[RUNS]["success"].value == 1
    store.close()


COLD = "jobrun_exporter_state_cold_starts_total"


def test_another_api_is_refused_even_if_the_state_can_be_opened_only_later(harness):
    harness.read(ended())
    harness.close()
    mounted = []

    def opening():
        if not mounted:
            raise StateError("not mounted")
        return open_state(harness.path, lambda: harness.now)

    ledger = Ledger(opening)
    with pytest.raises(StateError, match="not mounted"):
        ledger.load()
    counting = CountingRules(step_buckets=(5.0,), zero_first=False)
    ledger.configure({"s": rules(identity="api two")}, counting, "on")
    mounted.append(True)
    for _ in range(2):
        with pytest.raises(StateError, match="give the source a new name"):
            ledger.start_poll("s", harness.now)
    ledger.configure({"s": rules()}, counting, "on")
    ledger.start_poll("s", harness.now)
    assert ledger.source("s").baseline == BASELINE
    ledger.close()


def test_a_cold_start_is_counted_as_soon_as_the_state_can_be_written(harness):
    harness.read(ended())
    harness.close()
    harness.path.write_bytes(b"no database at all")
    store = Store(harness.path.with_name("empty.db"))  # so that the failure is not in creating the tables
    store.close()

    def opening():
        if harness.path.exists() and harness.path.read_bytes()[:2] == b"no":
            opened = open_state(harness.path, lambda: harness.now)
            assert opened.store is not None
            opened.store.close()
            harness.path.write_bytes(harness.path.with_name("empty.db").read_bytes())
            return OpenedState(store=None, loaded=opened.loaded, cold_start=opened.cold_start, error="disk full")
        return open_state(harness.path, lambda: harness.now, lambda *a, **k: sqlite3.connect(*a, factory=Failing, **k))

    harness.ledger = Ledger(opening)
    with pytest.raises(StateError, match="disk full"):
        harness.ledger.load()
    Failing.fails = True
    with pytest.raises(StateError):
        harness.ledger.load()
    Failing.fails = False
    harness.configure()
    for _ in range(2):
        harness.read(ended())
        counts = harness.ledger.committed.exporter.counts[COLD]
        assert {reason: count.value for reason, count in counts.items()} == {"corrupt": 1}


def test_a_ledger_that_is_closed_stays_closed(harness):
    harness.read(ended())
    opened = []

    def noted():
        opened.append(True)
        return open_state(harness.path.with_name("other.db"), lambda: 0.0)

    ledger = Ledger(noted)
    ledger.load()
    ledger.configure({"s": rules()}, CountingRules(step_buckets=(), zero_first=False), "on")
    ledger.close()
    with pytest.raises(StateError, match="closed"):
        ledger.start_poll("s", harness.now)
    assert ledger.rows("s", ["r"]) == {}
    assert opened == [True]


@pytest.mark.parametrize("place", ["series_of", "run_buckets"])
def test_an_internal_error_between_classifying_and_recording_neither_loses_nor_doubles_a_run(harness, place):
    harness.read(ended("a"))

    def broken(*_):
        raise MemoryError

    whole = {"series_of": rules().series_of, "run_buckets": rules().run_buckets}
    harness.ledger.rules["s"] = rules(**{place: broken})  # a reload would ask it itself
    with pytest.raises(MemoryError):
        harness.read(ended("b", BASELINE + 120))
    harness.ledger.rules["s"] = rules(**whole)
    harness.read(ended("b", BASELINE + 120), ended("c", BASELINE + 130))
    assert (harness.counts(), harness.job().last_run.run_id) == ({"success": 3}, "c")


def test_memory_that_differs_from_the_disk_is_read_from_it_again(harness):
    harness.read(ended("a"))

    def stuck(*_):
        raise MemoryError

    put_job, harness.ledger.committed.put_job = harness.ledger.committed.put_job, stuck
    with pytest.raises(MemoryError):
        harness.read(ended("b", BASELINE + 120))
    harness.ledger.committed.put_job = put_job
    harness.read(ended("b", BASELINE + 120), ended("c", BASELINE + 130))
    assert (harness.counts(), harness.job().last_run.run_id) == ({"success": 3}, "c")


def test_memory_that_differs_from_the_disk_is_not_written(harness):
    harness.read(ended("a"))

    def stuck(*_):
        raise MemoryError

    put_job, harness.ledger.committed.put_job = harness.ledger.committed.put_job, stuck
    with pytest.raises(MemoryError):
        harness.read(ended("b", BASELINE + 120))
    harness.ledger.committed.put_job = put_job
    with pytest.raises(StateError, match="loaded again first: s"):
        expose(harness.ledger, [(("job", harness.job().key), RUNS, "success")])
    harness.read(ended("c", BASELINE + 130))
    assert (harness.counts(), harness.total()) == ({"success": 3}, 3)


def test_a_prune_that_fails_is_an_error_of_the_state_like_any_other(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db")
    harness.read(ended())
    harness.now += 40 * DAY
    harness.read()
    Failing.fails = True
    with pytest.raises(StateError):
        prune(harness.ledger, harness.now, 30 * DAY)
    assert (harness.ledger.commit_errors, harness.ledger.error) == (1, f"{harness.path}: disk I/O error")
    harness.close()


# --- buckets ---


def test_new_buckets_keep_counters_from_falling(harness):
    for n, length in enumerate((5.0, 30.0, 70.0)):
        harness.read(ended(str(n), BASELINE + 100 + n, length=length))
    harness.configure(run_buckets=lambda _job: (20.0, 60.0, 100.0))
    harness.read(ended("x", BASELINE + 300, length=90.0))
    found = harness.job().distributions[DURATIONS]["success"]
    shown = found.shown()
    assert shown.bounds == (20.0, 60.0, 100.0)
    assert (sum(shown.counts), shown.sum) == (4, 195.0)
    assert shown.counts[0] + shown.counts[1] == 2  # le="60", a bound that stayed


def test_buckets_changed_back_do_not_fall_and_keep_their_exemplars(harness):
    for n, length in enumerate((5.0, 8.0, 30.0)):
        harness.read(ended(str(n), BASELINE + 100 + n, length=length))
    before = harness.job().distributions[DURATIONS]["success"].shown()
    harness.configure(run_buckets=lambda _job: (60.0, 100.0))
    assert harness.job().distributions[DURATIONS]["success"].shown().counts == [3, 0, 0]
    harness.reopen()
    harness.configure(run_buckets=lambda _job: (10.0, 60.0))
    assert harness.job().distributions[DURATIONS]["success"].shown() == before
    assert before.counts == [2, 1, 0]


def test_all_series_of_a_family_have_new_buckets_at_once_after_a_reload(harness):
    harness.read(ended("a", job_id="a"), ended("b", job_id="b"))
    harness.configure(run_buckets=lambda _job: (1.0, 2.0))
    assert {harness.job(name).distributions[DURATIONS]["success"].shown_bounds for name in "ab"} == {(1.0, 2.0)}
    assert harness.ledger.drain().changed is None


def test_remembered_bucket_bounds_are_limited(harness):
    harness.read(ended("a"))
    for number in range(MAX_BOUNDS + 5):
        harness.configure(run_buckets=lambda _job, number=number: (1000.0 + number, 5000.0))
    found = harness.job().distributions[DURATIONS]["success"]
    assert len(found.bounds) <= MAX_BOUNDS
    assert (sum(found.shown().counts), found.shown_bounds) == (1, (1000.0 + MAX_BOUNDS + 4, 5000.0))


# --- jobs and their labels ---


def names(harness):
    return {job.job.job_id: job.name for job in harness.ledger.jobs_of("s")}


def test_the_later_of_two_jobs_with_equal_labels_gets_a_distinct_name_for_good(harness):
    harness.read(ended("a", job_id="one"), jobs=[Job(job_id="one", name="x")])
    harness.read(
        ended("b", job_id="two"), jobs=[Job(job_id="two", name="x"), Job(job_id="three", name="x", project="p")]
    )
    assert names(harness) == {"one": "x", "two": "x #two", "three": "x"}
    harness.reopen()
    harness.read(jobs=[Job(job_id="one", name="y"), Job(job_id="two", name="x")])
    assert names(harness) == {"one": "y", "two": "x #two", "three": "x"}


def test_names_may_be_swapped_in_one_batch(harness):
    harness.read(jobs=[Job(job_id="1", name="a"), Job(job_id="2", name="b")])
    harness.read(jobs=[Job(job_id="1", name="b"), Job(job_id="2", name="a")])
    harness.read(jobs=[Job(job_id="3", name="a"), Job(job_id="4", name="b")])
    assert len(set(names(harness).values())) == 4


def test_no_label_is_used_twice_even_if_a_job_is_named_like_one_with_an_appended_id(harness):
    harness.read(jobs=[Job(job_id="1", name="x"), Job(job_id="3", name="x #2"), Job(job_id="2", name="x")])
    assert len(set(names(harness).values())) == 3


def test_no_job_can_use_the_name_of_the_overflow_job(harness):
    harness.read(jobs=[Job(job_id="1", name=OTHER, project=OTHER)])
    assert names(harness) == {"1": f"{OTHER} #1"}


@pytest.mark.parametrize("labels", [("", "new"), ("new", "j"), ("new", "new")])
def test_a_job_with_another_name_or_project_begins_at_0_and_keeps_its_gauges(harness, labels):
    project, name = labels
    harness.read(ended("a", result=Result.FAILURE))
    harness.read(ended("b", BASELINE + 200, result=Result.FAILURE), jobs=[Job(job_id="j", project=project, name=name)])
    assert (harness.counts(), harness.job().streak) == ({"failure": 1}, 2)
    assert (harness.job().project, harness.job().name) == labels


def test_a_job_that_is_no_longer_listed_expires_after_a_while_and_returns_at_0(harness):
    one, two = Job(job_id="j", name="j"), Job(job_id="k", name="k")
    harness.read(ended(), jobs=[one, two], catalog=True)
    harness.read(jobs=[two], catalog=True)
    assert not harness.job().gone
    harness.now += 1000
    harness.read(jobs=[two], catalog=True)
    assert harness.job().gone
    harness.read(ended(), ended("b", BASELINE + 200), jobs=[one, two], catalog=True)
    assert (harness.job().gone, harness.counts()) == (False, {"success": 1})


def test_a_deleted_scope_expires_after_a_while_with_its_jobs(harness):
    there, gone = (
        Batch(scope="x", jobs=[Job(job_id="k", name="k", scope="x")], catalog=True),
        Batch(scope="x", readable=False, exists=False, checkpoints={"x": ""}),
    )
    harness.read(ended(), checkpoints={"x": "1"})
    harness.poll(there)
    harness.poll(gone, advance=1000)
    state = harness.ledger.source("s")
    assert (state.scopes["x"].readable, state.checkpoints, harness.job("k").gone) == (False, {}, False)
    harness.poll(gone)
    harness.reopen()
    assert (harness.ledger.source("s").scopes.keys(), harness.job("k").gone, harness.job().gone) == ({""}, True, False)
    harness.poll(gone)
    assert harness.ledger.source("s").scopes.keys() == {""}
    harness.poll(there)
    assert (harness.ledger.source("s").scopes["x"].readable, harness.job("k").gone) == (True, False)


def test_a_scope_missing_once_keeps_its_baseline_and_its_watermark(harness):
    there = Batch(scope="x", jobs=[Job(job_id="k", name="k", scope="x")], catalog=True, through=BASELINE)
    gone = Batch(scope="x", exists=False)
    harness.poll(there)
    before = harness.ledger.source("s").scopes["x"]
    for _ in range(3):
        harness.poll(gone, advance=700)
        harness.poll(there, advance=700)
    assert harness.ledger.source("s").scopes["x"] == before
    assert not harness.job("k").gone


def test_a_job_without_runs_expires_unless_it_has_an_objective_an_open_run_or_is_listed(harness):
    harness.read(ended("a", job_id="plain"), ended("b", job_id="wanted"), opened("c", job_id="busy"))
    harness.poll(Batch(scope="x", catalog=True, jobs=[Job(job_id="listed", name="listed", scope="x")]))
    harness.configure(has_objective=lambda job: job.name == "wanted")
    harness.now = BASELINE + 100 + 91 * DAY
    for scope in ("", "x"):
        harness.ledger.commit("s", Batch(scope=scope, through=harness.now), harness.poll_context)
    harness.ledger.finish_poll("s", success(harness.now))
    expire_jobs(harness.ledger, harness.now, 90 * DAY)
    assert {job.name for job in harness.ledger.jobs_of("s") if job.gone} == {"plain"}


def test_a_clock_that_is_far_ahead_expires_no_job(harness):
    harness.read(ended(), through=BASELINE + 100)
    expire_jobs(harness.ledger, BASELINE + 1000 * DAY, 90 * DAY)
    assert not harness.job().gone


# --- polls that find nothing ---


def test_an_idle_poll_of_several_scopes_is_one_transaction(harness):
    idle = [Batch(scope=scope, through=harness.now) for scope in ("", "x")]
    harness.poll(*idle)
    statements = []
    harness.ledger.store()._db.set_trace_callback(statements.append)
    harness.poll(*(msgspec.structs.replace(batch, through=harness.now, unchanged=3) for batch in idle))
    assert statements.count("COMMIT") == 1
    harness.reopen()
    assert {scope.watermark for scope in harness.ledger.source("s").scopes.values()} == {harness.now - 60}
    assert harness.ledger.source("s").counts["jobrun_source_runs_fetched_total"]["duplicate"].value == 6


def test_an_idle_batch_that_is_never_written_is_read_again(harness):
    harness.read(ended("a"), through=BASELINE)
    harness.begin()
    harness.ledger.commit("s", Batch(through=harness.now), harness.poll_context)
    assert harness.ledger.source("s").scopes[""].watermark == harness.now
    harness.open()  # like after a kill
    assert harness.ledger.source("s").scopes[""].watermark == BASELINE
    harness.read(ended("a"), ended("b", end=harness.now))
    assert harness.total() == 2


def test_a_row_that_waits_for_the_end_of_a_poll_undoes_nothing_written_meanwhile(harness):
    harness.read(unobserved=[Window(BASELINE - 70, BASELINE - 10)])
    harness.begin()
    harness.ledger.commit("s", Batch(through=harness.now), harness.poll_context)
    expose(harness.ledger, [(("source", "s"), "jobrun_source_unobserved_seconds_total", "")])
    harness.ledger.finish_poll("s", success(harness.now))
    assert harness.ledger.source("s").counts["jobrun_source_unobserved_seconds_total"][""].released


# --- too many series ---


def test_jobs_over_the_limit_fold_into_one_and_the_sums_stay_right(harness):
    harness.configure(max_series=7)
    runs = [ended(str(n), BASELINE + n + 1, job_id=f"j{n % 4}") for n in range(12)]
    harness.read(*runs)
    overflow = [job for job in harness.ledger.committed.jobs.values() if job.overflow]
    assert [job.folded for job in harness.ledger.jobs_of("s")] == [False, False, True, True]
    assert overflow[0].counts[RUNS]["success"].value == 6
    assert sum(harness.total(f"j{n}") for n in range(4)) == 6
    harness.reopen(max_series=1000)
    harness.read(ended("later", BASELINE + 50, job_id="j3"))
    assert harness.counts("j3") == {"success": 1}
    assert harness.ledger.committed.exporter.counts["jobrun_exporter_series_overflow_total"][RUNS].value == 2


def test_steps_and_error_types_over_the_limit_fold_into_their_job(harness):
    harness.configure(max_series=3)
    harness.read(
        ended("a", result=Result.FAILURE, error_type="odd"), steps={"a": [Step(name="s", result=Result.FAILURE)]}
    )
    job = harness.job()
    assert {key: c.value for key, c in job.counts["jobrun_run_errors_total"].items()} == {OTHER: 1}
    assert job.counts[STEPS][f"{OTHER}\x1ffailure"].value == 1
    assert job.folded_steps == ["s"]
    harness.configure(max_series=1000)
    harness.read(ended("b", BASELINE + 200), steps={"b": [Step(name="s", result=Result.SUCCESS)]})
    assert harness.job().counts[STEPS]["s\x1fsuccess"].value == 1


# --- steps ---


@pytest.mark.parametrize(
    ("steps", "requested"),
    [("all", {*Result}), ("failed", {Result.FAILURE, Result.ERROR, Result.TIMEOUT}), ("off", set())],
)
def test_the_config_decides_of_which_completed_runs_the_steps_are_requested(harness, steps, requested):
    harness.configure(steps=steps)
    harness.read(*(ended(result.value, result=result) for result in Result))
    assert {row.run.result for row in harness.ledger.pending_steps("s", harness.now, 100)} == requested


def test_steps_are_requested_until_complete_and_then_counted_as_unknown(harness):
    harness.read(ended())
    half = [Step(name="s", result=Result.SUCCESS), Step(name="t", state=State.EXECUTING)]
    for tries in range(4):
        (row,) = harness.ledger.pending_steps("s", harness.now, 10)
        assert row.incomplete == tries
        harness.begin()
        harness.ledger.commit_steps("s", row, half, harness.poll_context)
        assert harness.ledger.pending_steps("s", harness.started, 10) == []
        harness.now += 3600
    assert harness.ledger.store().count_pending_steps("s") == 0
    assert harness.counts(family=STEPS) == {"s\x1fsuccess": 1, "t\x1funknown": 1}


def test_a_failed_fetch_is_repeated_with_the_next_poll_and_then_less_often(harness):
    harness.read(ended())
    waits = []
    for _ in range(8):
        harness.begin()
        (row,) = harness.ledger.pending_steps("s", harness.now, 10)
        harness.now += 5  # the poll takes some time
        harness.ledger.record_steps_error("s", row, harness.poll_context)
        waits.append(harness.row().due - harness.started)
        harness.now = harness.row().due
        harness.reopen()
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_steps_of_a_run_that_looked_open_again_are_not_forgotten(harness):
    harness.configure(reopens=True)
    harness.read(ended())
    harness.read(opened())
    assert harness.ledger.pending_steps("s", harness.now, 10) == []
    harness.read(ended())
    (row,) = harness.ledger.pending_steps("s", harness.now, 10)
    harness.ledger.commit_steps("s", row, [Step(name="s", result=Result.SUCCESS)], harness.poll_context)
    assert (harness.counts(), harness.counts(family=STEPS)) == ({"success": 1}, {"s\x1fsuccess": 1})
    assert harness.row().steps is StepState.COUNTED


def test_steps_and_their_counted_mark_are_one_transaction(harness):
    harness.read(ended())
    (row,) = harness.ledger.pending_steps("s", harness.now, 10)
    Failing.fails = True
    with pytest.raises(StateError):
        harness.ledger.commit_steps("s", row, [Step(name="s", result=Result.SUCCESS)], harness.poll_context)
    Failing.fails = False
    harness.reopen()
    (row,) = harness.ledger.pending_steps("s", harness.now, 10)
    harness.ledger.commit_steps("s", row, [Step(name="s", result=Result.SUCCESS)], harness.poll_context)
    assert harness.counts(family=STEPS) == {"s\x1fsuccess": 1}


def test_only_the_last_completed_and_last_failed_baseline_runs_get_their_steps(harness):
    endings = [
        ended(str(n), BASELINE - 10 * n, result=Result.FAILURE if n > 1 else Result.SUCCESS) for n in range(1, 9)
    ]
    harness.read(*endings)
    rows = harness.ledger.pending_steps("s", harness.now, 10)
    assert {row.run.run_id for row in rows} == {"1", "2"}
    for row in rows:
        harness.ledger.commit_steps("s", row, [Step(name="s", result=row.run.result)], harness.poll_context)
    assert harness.counts(family=STEPS) == {}
    assert (harness.job().last_failure.failed_step, harness.job().last_steps.run_id) == ("s", "1")


@pytest.mark.parametrize(("steps", "requested"), [("failed", {"failure"}), ("off", set())])
def test_the_config_also_decides_about_the_steps_of_baseline_runs(harness, steps, requested):
    harness.configure(steps=steps)
    harness.read(
        ended("success", BASELINE - 10),
        ended("failure", BASELINE - 20, result=Result.FAILURE),
        ended("before", BASELINE - 30),
    )
    assert {row.run.run_id for row in harness.ledger.pending_steps("s", harness.now, 100)} == requested


# --- what was not seen ---


def test_unobserved_seconds_are_added_once_no_matter_how_often_they_are_reported(harness):
    harness.poll()
    for window in (Window(10, 20), Window(15, 30), Window(10, 30), Window(40, 50)):
        harness.read(unobserved=[window])
    state = harness.ledger.source("s")
    assert (state.counts[UNOBSERVED][""].value, state.unobserved) == (30.0, [(10, 30), (40, 50)])


def test_a_range_in_the_future_is_neither_read_nor_lost(harness):
    harness.poll()
    harness.now = BASELINE + 100
    harness.read(through=BASELINE + 30 * DAY, unobserved=[Window(BASELINE + 50, BASELINE + DAY)])
    harness.read(through=BASELINE + 60, unobserved=[Window(BASELINE + DAY, BASELINE + 2 * DAY)])
    state = harness.ledger.source("s")
    assert (state.counts[UNOBSERVED][""].value, state.unobserved) == (50.0, [(BASELINE + 50, BASELINE + 100)])
    assert state.watermark() == BASELINE + 60


def test_remembered_ranges_are_limited_and_all_are_counted(harness):
    harness.poll()
    for number in range(MAX_RANGES + 5):
        harness.read(unobserved=[Window(10 * number, 10 * number + 1)])
    state = harness.ledger.source("s")
    assert (state.counts[UNOBSERVED][""].value, len(state.unobserved)) == (MAX_RANGES + 5, MAX_RANGES)


def test_unobserved_seconds_at_the_start_are_pending_until_exposed_and_survive_a_restart(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db", released=False)
    harness.begin()
    harness.ledger.commit("s", Batch(unobserved=[Window(10, 20)]), harness.poll_context)
    harness.reopen()
    state = harness.ledger.source("s")
    assert (state.pending_unobserved, state.counts[UNOBSERVED][""].value) == (10.0, 0.0)
    expose(harness.ledger, [(("unobserved", "s"), UNOBSERVED, "")])
    harness.reopen()
    state = harness.ledger.source("s")
    assert (state.pending_unobserved, state.counts[UNOBSERVED][""].value) == (0.0, 10.0)
    harness.close()


def test_an_unmapped_status_is_counted_once_per_run(harness):
    strange = opened("a", state=None, unmapped="PAUSED")
    for _ in range(3):
        harness.read(strange, opened("b", state=None, unmapped="PAUSED"), opened("c", state=None, unmapped="ODD"))
    counts = harness.ledger.source("s").counts["jobrun_source_unmapped_status_total"]
    assert {word: count.value for word, count in counts.items()} == {"PAUSED": 2, "ODD": 1}


def test_statuses_that_never_stop_changing_are_limited_per_run_and_counted_once_each(harness):
    for percent in range(50):
        harness.read(opened(state=None, unmapped=f"running\r\n{percent}%"), opened("b", state=None, unmapped="a\nb"))
        harness.read(opened(state=None, unmapped=f"running\r\n{percent}%"), opened("b", state=None))
    counts = harness.ledger.source("s").counts["jobrun_source_unmapped_status_total"]
    assert sum(count.value for count in counts.values()) == MAX_UNMAPPED + 1
    assert counts["a b"].value == 1
    assert len(harness.row().statuses) < 20 * MAX_UNMAPPED


def test_a_run_whose_id_another_scope_has_is_reported_as_invalid(harness):
    harness.read()
    harness.read(
        ended("1", job_id="j"), ended("2", job_id="j"), jobs=[Job(job_id="j", name="j")], through=BASELINE + 100
    )
    other = Batch(scope="b", jobs=[Job(job_id="k", name="k", scope="b")], runs=[ended("1", job_id="k")])
    (stats, *_) = harness.poll(other)
    assert stats.dispositions[Disposition.INVALID] == 1
    assert (harness.total("j"), harness.total("k")) == (2, 0)
    assert harness.row("1").job == harness.job("j").key


# --- implausible times ---


def test_an_end_in_the_future_does_not_hide_the_runs_that_end_after_it_was_seen(harness):
    harness.read()
    harness.read(ended("far", BASELINE + 365 * DAY))
    failed = [ended(f"f{number}", BASELINE + 60 * number, result=Result.FAILURE) for number in (2, 3)]
    harness.now += 200
    harness.read(*failed)
    job = harness.job()
    assert harness.counts() == {"success": 1, "failure": 2}
    assert (job.last_run.run_id, job.streak, job.last_success) == ("f3", 2, BASELINE + 60)


def test_times_in_the_future_apply_once_they_are_past_and_count_nothing_twice(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db", reopens=True)
    harness.read()
    early = run(result=Result.SUCCESS, start=BASELINE + DAY, end=BASELINE + DAY + 30)
    harness.read(early)
    assert (harness.row().run.start, harness.row().run.end) == (None, None)
    harness.now += DAY
    harness.read(early)
    assert (harness.row().run.start, harness.row().run.end) == (BASELINE + DAY, BASELINE + DAY + 30)
    assert harness.counts() == {"success": 1}
    harness.close()


def test_an_open_run_with_a_start_in_the_future_expires_as_any_other(harness):
    harness.read(opened(start=BASELINE + 365 * DAY))
    harness.now += 8 * DAY
    harness.read(opened(start=BASELINE + 365 * DAY))
    assert harness.counts() == {"unknown": 1}


@pytest.mark.parametrize("seen_open", [False, True])
def test_a_run_that_ends_before_its_start_and_the_baseline_by_another_clock_counts(harness, seen_open):
    harness.read()
    if seen_open:
        harness.read(opened(start=BASELINE + 50))
    harness.read(run(result=Result.FAILURE, start=BASELINE + 50, end=BASELINE - 500))
    assert harness.counts() == {"failure": 1}
    assert harness.job().last_run.end == BASELINE + 50


@pytest.mark.parametrize(
    "ends", [(100.123456, 100.123), (100.123, 100.123456), (100.7, 100.0), (None, 100.5, None, 100.5)]
)
def test_a_completion_counts_once_even_if_the_digits_of_its_end_change_or_the_end_is_missing_at_times(tmp_path, ends):
    harness = LedgerHarness(tmp_path / "state.db", reopens=True)
    harness.read()
    harness.now += 200
    for end in (*ends, *ends):
        times = {} if end is None else {"end": BASELINE + end}
        harness.read(run(result=Result.FAILURE, start=BASELINE + 10, **times))
    assert harness.counts() == {"failure": 1}
    harness.read(run(result=Result.FAILURE, start=BASELINE + 150, end=BASELINE + 160))
    assert harness.counts() == {"failure": 2}
    harness.close()


# --- zero first ---


def test_a_series_is_recorded_as_exposed_on_disk_before_it_is_in_memory(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db", released=False)
    harness.read(ended())
    owner: Owner = ("job", harness.job().key)
    Failing.fails = True
    with pytest.raises(StateError):
        expose(harness.ledger, [(owner, RUNS, "success")])
    assert not harness.job().counts[RUNS]["success"].released
    Failing.fails = False
    expose(harness.ledger, [(owner, RUNS, "success")])
    harness.reopen()
    assert harness.job().counts[RUNS]["success"].released
    harness.close()
