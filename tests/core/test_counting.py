import itertools
from typing import Any

import pytest

from exporter.counting import counters, latest
from exporter.counting.classify import Context, CountState, Decision, RunRecord, classify, is_cleaning_up, origin
from exporter.counting.counters import MAX_ERROR_TYPES, root_failure
from exporter.counting.labels import OTHER
from exporter.counting.latest import Streak, add_completion
from exporter.counting.records import JobState
from exporter.model import FAILING, Disposition, Job, Result, Run, State, Step

B = 1000.0
OPEN = Run(run_id="r", job_id="j", state=State.EXECUTING, start=900.0)
DONE = Run(run_id="r", job_id="j", result=Result.SUCCESS, start=900.0, end=1100.0, duration=200.0)
FAILED = Run(run_id="r", job_id="j", result=Result.FAILURE, start=900.0, end=1100.0)
AGAIN = Run(run_id="r", job_id="j", result=Result.SUCCESS, start=1150.0, end=1200.0)
OLD = Run(run_id="r", job_id="j", result=Result.SUCCESS, start=800.0, end=B)
EXACT = Run(run_id="r", job_id="j", result=Result.SUCCESS, start=800.0, end=B + 0.5)
ENDLESS = Run(run_id="r", job_id="j", result=Result.FAILURE, start=900.0)
BLANK = Run(run_id="r", job_id="j", result=Result.SKIP)
STALE = Run(run_id="r", job_id="j", state=State.EXECUTING, start=B - 100)
WAITING = Run(run_id="r", job_id="j", state=State.PENDING, created=890.0)
GIVEN = Run(run_id="r", job_id="j", result=Result.UNKNOWN, start=900.0)
NEW, UPDATED, DUPLICATE, LATE, BASELINE = (
    Disposition.NEW,
    Disposition.UPDATED,
    Disposition.DUPLICATE,
    Disposition.LATE,
    Disposition.BASELINE,
)


def context(**changes):
    fields = {"baseline": B, "watermark": 1050.0, "settled": True, "reopens": False, "max_run_age": 500.0, **changes}
    return Context(**fields)


def known(run, mark, *earlier):
    return RunRecord(run=run, mark=mark, earlier=earlier)


@pytest.mark.parametrize(
    ("before", "run", "fields", "verdict", "counts", "mark"),
    [
        # never seen
        (None, OPEN, {}, NEW, False, CountState.OPEN),
        (None, STALE, {"max_run_age": 100.0}, NEW, False, CountState.OPEN),
        (None, STALE, {"max_run_age": 99.0}, BASELINE, False, CountState.BASELINE),
        (None, DONE, {}, NEW, True, CountState.COUNTED),
        (None, DONE, {"watermark": 1100.0}, NEW, True, CountState.COUNTED),
        (None, DONE, {"watermark": 1101.0}, LATE, True, CountState.COUNTED),
        (None, DONE, {"watermark": None}, NEW, True, CountState.COUNTED),
        (None, OLD, {"baseline": B + 5.0}, BASELINE, False, CountState.BASELINE),
        (None, DONE, {"pruned_before": 1101.0}, BASELINE, False, CountState.BASELINE),
        (None, DONE, {"pruned_before": 1100.0}, NEW, True, CountState.COUNTED),
        (None, OLD, {"settled": False}, BASELINE, False, CountState.BASELINE),
        (None, OLD, {"baseline": B + 0.9}, LATE, True, CountState.COUNTED),
        (None, OLD, {"baseline": B + 0.9, "settled": False}, BASELINE, False, CountState.BASELINE),
        (None, OLD, {"baseline": B + 1.0}, BASELINE, False, CountState.BASELINE),
        (None, EXACT, {"baseline": B + 0.9}, BASELINE, False, CountState.BASELINE),
        (None, EXACT, {}, LATE, True, CountState.COUNTED),
        # without an end the start decides; without a start, whether the first poll is over
        (None, ENDLESS, {"baseline": 800.0, "settled": False}, NEW, True, CountState.COUNTED),
        (None, ENDLESS, {"settled": False}, BASELINE, False, CountState.BASELINE),
        (None, ENDLESS, {"settled": True}, BASELINE, False, CountState.BASELINE),
        (None, ENDLESS, {"settled": True, "included_later": True}, BASELINE, False, CountState.BASELINE),
        (None, BLANK, {"settled": False}, BASELINE, False, CountState.BASELINE),
        (None, BLANK, {"settled": True, "included_later": True}, NEW, True, CountState.COUNTED),
        # seen while active
        (known(OPEN, CountState.OPEN), OPEN, {}, DUPLICATE, False, None),
        (known(OPEN, CountState.OPEN), WAITING, {}, UPDATED, False, CountState.OPEN),
        (known(OPEN, CountState.OPEN), DONE, {}, UPDATED, True, CountState.COUNTED),
        (known(OPEN, CountState.OPEN), OLD, {}, UPDATED, True, CountState.COUNTED),
        (known(OPEN, CountState.OPEN), OLD, {"baseline": B + 0.9}, UPDATED, True, CountState.COUNTED),
        (known(OPEN, CountState.OPEN), OLD, {"baseline": B + 1.0}, BASELINE, False, CountState.BASELINE),
        (known(OPEN, CountState.OPEN), ENDLESS, {}, UPDATED, True, CountState.COUNTED),
        # seen completed, at a vendor that does not reopen runs
        (known(DONE, CountState.COUNTED), OPEN, {}, DUPLICATE, False, None),
        (known(DONE, CountState.COUNTED), DONE, {}, DUPLICATE, False, None),
        (known(DONE, CountState.COUNTED), FAILED, {}, UPDATED, False, CountState.COUNTED),
        (known(DONE, CountState.COUNTED), AGAIN, {}, UPDATED, False, CountState.COUNTED),
        (known(OLD, CountState.BASELINE), DONE, {}, UPDATED, False, CountState.BASELINE),
        (known(GIVEN, CountState.EXPIRED), OPEN, {}, DUPLICATE, False, None),
        (known(GIVEN, CountState.EXPIRED), DONE, {}, UPDATED, False, CountState.COUNTED),
        # at a vendor that reopens runs: ID and end identify a completion
        (known(DONE, CountState.COUNTED), OPEN, {"reopens": True}, UPDATED, False, CountState.OPEN),
        (known(DONE, CountState.COUNTED), AGAIN, {"reopens": True}, UPDATED, True, CountState.COUNTED),
        (known(DONE, CountState.COUNTED), FAILED, {"reopens": True}, UPDATED, False, CountState.COUNTED),
        (known(AGAIN, CountState.COUNTED, 1100.0), DONE, {"reopens": True}, DUPLICATE, False, None),
        (known(OPEN, CountState.OPEN, 1100.0), DONE, {"reopens": True}, DUPLICATE, False, CountState.COUNTED),
        (known(OPEN, CountState.OPEN, 1100.0), AGAIN, {"reopens": True}, UPDATED, True, CountState.COUNTED),
        (known(OLD, CountState.BASELINE), DONE, {"reopens": True}, UPDATED, True, CountState.COUNTED),
        (known(OLD, CountState.BASELINE), OPEN, {"reopens": True}, UPDATED, False, CountState.OPEN),
        (known(STALE, CountState.BASELINE), DONE, {"reopens": True}, UPDATED, False, CountState.BASELINE),
        (known(STALE, CountState.BASELINE), DONE, {}, UPDATED, False, CountState.BASELINE),
        (known(GIVEN, CountState.EXPIRED), OPEN, {"reopens": True}, DUPLICATE, False, None),
        (known(GIVEN, CountState.EXPIRED), DONE, {"reopens": True}, UPDATED, False, CountState.COUNTED),
    ],
)
def test_each_row_is_classified(before, run, fields, verdict, counts, mark):  # noqa: PLR0917  # columns of the table
    found = classify(before, run, context(**fields))
    assert (found.disposition, found.counts, found.record and found.record.mark) == (verdict, counts, mark)


def test_the_same_completion_is_counted_once_no_matter_how_often_a_run_returns():
    reopened = context(reopens=True)
    state, counted = None, []
    for run in (OPEN, DONE, OPEN, DONE, DONE, OPEN, AGAIN, DONE, OPEN, DONE, AGAIN, OPEN, AGAIN):
        verdict: Decision = classify(state, run, reopened)
        counted += [run.end] if verdict.counts else []
        state = verdict.record or state
    assert counted == [DONE.end, AGAIN.end]


@pytest.mark.parametrize(
    ("fields", "begun"),
    [
        ({}, None),
        ({"created": 5.0}, 5.0),
        ({"created": 5.0, "start": 7.0}, 7.0),
        ({"created": 5.0, "scheduled": 50.0}, 50.0),  # a schedule in the future does not age
        ({"created": 5.0, "scheduled": 50.0, "start": 60.0}, 60.0),
    ],
)
def test_the_age_of_a_run_begins_at_its_start_or_else_when_it_was_seen(fields, begun):
    assert origin(Run(run_id="r", job_id="j", **fields)) == begun


def job():
    describe_url = Job(job_id="j", name="j")
    return JobState(key=1, source="s", job=describe_url, project="", name="j", discovered=0.0, baseline=0.0)


RESULTS = (Result.SUCCESS, Result.FAILURE, Result.TIMEOUT, Result.CANCELLATION)


@pytest.mark.parametrize("results", list(itertools.product(RESULTS, repeat=4)))
def test_gauges_are_the_same_whatever_the_order_of_arrival(results):
    endings = [Run(run_id=str(n), job_id="j", result=result, end=100.0 + n) for n, result in enumerate(results)]
    last_success = max((run.end or 0.0 for run in endings if run.result is Result.SUCCESS), default=None)
    after = [run.end for run in endings if run.result in FAILING and run.end and run.end > (last_success or 0)]
    for order in itertools.permutations(endings):
        state, seen = job(), []
        for run in order:
            seen.append(run)
            if add_completion(state, run, 0.0):
                latest.set_streak(state, recounted(seen), None)
        assert (state.streak, state.failing_since) == (len(after), min(after, default=None))
        assert state.last_success == last_success
        assert state.last_run.run_id == "3"


def recounted(runs):
    success = max((run.end for run in runs if run.result is Result.SUCCESS), default=None)
    failures = [run.end for run in runs if run.result in FAILING and run.end and run.end > (success or 0)]
    return Streak(last_success=success, failures=len(failures), since=min(failures, default=None))


def step(name, result, *dependencies, end=None):
    return Step(name=name, result=result, end=end, dependencies=dependencies)


F, S, K = Result.FAILURE, Result.SUCCESS, Result.SKIP


@pytest.mark.parametrize(
    ("steps", "blamed"),
    [
        ([], ""),
        ([step("a", S)], ""),
        ([step("a", F)], "a"),
        ([step("a", S), step("b", F, "a"), step("c", K, "b")], "b"),
        ([step("c", F, "b"), step("b", F, "a"), step("a", F)], "a"),
        ([step("c", F, "b"), step("b", S, "a"), step("a", F)], "a"),  # an ancestor reached through a successful step
        ([step("a", F, end=9.0), step("b", F, end=5.0)], "b"),
        ([step("a", F), step("b", F, end=5.0)], "b"),
        ([step("a", F), step("b", F)], "a"),
        ([step("a", F, "b"), step("b", F, "a")], "a"),  # a cycle
        ([step("a", F, "a")], "a"),
        ([step("a", F, "nobody")], "a"),
    ],
)
def test_the_step_that_failed_first_is_blamed(steps, blamed):
    assert root_failure(steps) == blamed


BOUNDS = (10.0, 60.0)


def test_error_types_are_bounded_and_their_sum_is_right():
    state = job()
    for number in range(MAX_ERROR_TYPES + 20):
        run = Run(run_id=str(number), job_id="j", result=Result.FAILURE, end=1.0, error_type=f"type {number}")
        counters.count_completion(state, run, has_attempts=False)
    found = state.counts["jobrun_run_errors_total"]
    assert len(found) == MAX_ERROR_TYPES + 1
    assert sum(count.value for count in found.values()) == MAX_ERROR_TYPES + 20
    assert found[OTHER].value == 20


def test_a_completion_updates_all_its_series():
    state = job()
    run = Run(
        run_id="r", job_id="j", result=Result.SUCCESS, end=9.0, duration=20.0, queue_duration=3.0, retries=2,
        recovered=True, error_type="of an attempt that failed",
    )  # fmt: skip
    counters.count_completion(state, run, has_attempts=True)
    counters.observe_duration(state, run, BOUNDS)
    counters.observe_queue(state, run, BOUNDS)
    assert {family: sum(c.value for c in series.values()) for family, series in state.counts.items()} == {
        "jobrun_runs_total": 1,
        "jobrun_run_retries_total": 2,
        "jobrun_runs_recovered_total": 1,
    }
    assert state.distributions["jobrun_run_duration_seconds"]["success"].counts == [0, 1, 0]
    assert state.distributions["jobrun_run_queue_duration_seconds"][""].counts == [1, 0, 0]


CLEANING = Run(run_id="r", job_id="j", state=State.EXECUTING, start=900.0, after_end=True)


@pytest.mark.parametrize("mark", [CountState.COUNTED, CountState.BASELINE])
def test_a_run_that_cleans_up_after_its_completion_is_open_and_has_no_second_completion(mark):
    opened: Any = classify(known(FAILED, mark), CLEANING, context())
    assert (opened.record.mark, opened.record.run.after_end, opened.counts) == (CountState.OPEN, False, False)
    assert is_cleaning_up(opened.record, reopens=False)
    ended: Any = classify(opened.record, AGAIN, context())
    assert (ended.disposition, ended.counts, ended.record.mark) == (UPDATED, False, CountState.COUNTED)
    assert classify(ended.record, AGAIN, context()).disposition is DUPLICATE


def test_a_run_that_is_first_seen_while_it_cleans_up_completes_once():
    opened: Any = classify(None, CLEANING, context())
    assert opened.record.mark is CountState.OPEN
    assert classify(opened.record, AGAIN, context()).counts
