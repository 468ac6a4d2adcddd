"""Counters equal the ground truth, no matter what happens in between."""

from typing import Any

import pytest

from exporter.simulators.disruptions import (
    Drop,
    Duplicate,
    Garbage,
    Half,
    Html,
    Late,
    LostEnd,
    Nameless,
    Redirect,
    Reset,
    Shuffle,
    Stale,
    Status,
)
from tests.contract.harness import DAY, HOUR, MINUTE, NOW, UNOBSERVED


def past(bench, hours=20, **fields):
    """Add runs that completed before the exporter started."""
    for hour in range(1, hours):
        bench.world.run("old", start=NOW - hour * HOUR, duration=600, **fields)


def test_undisturbed_polling_counts_every_completion_once(bench):
    past(bench)
    bench.busy(90 * MINUTE)
    assert bench.poll() == "success"
    bench.run(90 * MINUTE)
    bench.settle(30)
    assert bench.counted() == bench.truth()
    assert bench.total() > 30


def test_completions_before_the_baseline_are_never_counted(bench):
    past(bench)
    bench.poll()
    bench.settle()
    bench.restart()
    bench.settle()
    assert bench.counted() == {}
    assert bench.value("jobrun_last_run_end_timestamp_seconds", job_name="old") == NOW - HOUR + 600


@pytest.mark.parametrize("odd", ["\r\n", "\u2028💥", "%2F/../?#&", "'\"\\"])
def test_ids_with_odd_characters_are_counted_once(bench, odd):
    bench.poll()
    bench.world.run("job-0", run_id=f"long{odd}x", start=bench.clock() + 10, duration=600)
    bench.world.run("job-0", run_id=f"short{odd}x", start=bench.clock() + 10, duration=20, result="failure")
    bench.run(20 * MINUTE)
    bench.settle()
    assert bench.counted() == {("prod", "job-0", "success"): 1, ("prod", "job-0", "failure"): 1}
    bench.restart()
    bench.settle()
    assert bench.total() == 2


def test_a_run_that_was_open_at_the_baseline_is_counted_when_it_ends(bench):
    bench.world.run("open", start=NOW - 2 * HOUR, duration=2 * HOUR + 90)
    bench.poll()
    bench.settle()
    assert bench.counted() == {("prod", "open", "success"): 1}


@pytest.mark.parametrize("lie", [Duplicate(), Shuffle(), Drop(share=0.4), Nameless(share=0.3)])
def test_duplicated_shuffled_dropped_and_nameless_rows_change_no_final_sum(bench, lie):
    bench.poll()
    bench.busy(HOUR)
    fields = {"share": lie.share} if hasattr(lie, "share") else {}
    bench.disruption(type(lie), **fields)
    bench.run(HOUR)
    bench.simulator.disruptions.clear()
    bench.settle(30)
    assert bench.counted() == bench.truth()


@pytest.mark.parametrize("seconds", [30, 400])
def test_stale_responses_neither_lose_nor_repeat_a_run(bench, seconds):
    bench.poll()
    bench.busy(HOUR)
    bench.run(20 * MINUTE)
    bench.disruption(Stale, seconds=seconds, probability=0.5)
    bench.run(40 * MINUTE)
    bench.simulator.disruptions.clear()
    bench.settle(30)
    assert bench.counted() == bench.truth()


def test_a_run_listed_late_is_counted_once(bench):
    bench.poll()
    bench.busy(HOUR)
    bench.disruption(Late, seconds=600, share=0.3)
    bench.run(HOUR)
    bench.settle(45)
    assert bench.counted() == bench.truth()


def test_restarts_at_any_poll_change_nothing(bench):
    bench.poll()
    bench.busy(HOUR)
    for round_ in range(25):
        bench.run(3 * MINUTE)
        bench.restart(down=round_ % 7 * 10)
    bench.settle(30)
    assert bench.counted() == bench.truth()


def test_downtime_within_the_lookback_is_caught_up(bench):
    past(bench)
    bench.poll()
    down = bench.ability.catches_up - DAY
    bench.busy(down, every=2 * HOUR)
    bench.run(10 * MINUTE)
    bench.restart(down=down)
    bench.settle(30)
    assert bench.counted() == bench.truth()
    assert bench.value(UNOBSERVED) == 0


def test_rows_without_ids_after_a_downtime_are_counted_later_or_as_invalid_and_hold_nothing_up(bench):
    bench.poll()
    bench.busy(2 * DAY, every=2 * HOUR)
    bench.run(10 * MINUTE)
    bench.stop()
    bench.clock.advance(2 * DAY)
    bench.disruption(Nameless, share=0.3)
    bench.start()
    bench.settle(6)
    assert bench.value("jobrun_source_watermark_timestamp_seconds") > bench.clock() - HOUR
    bench.simulator.disruptions.clear()
    bench.settle(10)
    lost = sum(bench.truth().values()) - bench.total()
    assert 0 <= lost <= bench.value("jobrun_source_runs_fetched_total", disposition="invalid")
    assert bench.logs.getvalue().count("rows without a readable ID") == 1


@pytest.mark.able("forgets")
def test_downtime_beyond_the_lookback_is_reported_and_contains_every_missing_run(make):
    bench = make()
    bench.poll()
    bench.busy(10 * DAY, every=3 * HOUR)
    bench.run(10 * MINUTE)
    bench.restart(down=10 * DAY)
    bench.settle(30)
    ranges = bench.ledger.source("one").unobserved
    missing = sum(bench.truth().values()) - bench.total()
    within = sum(sum(bench.truth(since=start, until=end).values()) for start, end in ranges)
    assert 0 < missing <= within
    assert bench.value(UNOBSERVED) == pytest.approx(sum(end - start for start, end in ranges))
    assert bench.value("jobrun_exporter_state_cold_starts_total", reason="lost") == 1


DISRUPTIONS = {
    "http_5xx": (Status, {"code": 503}),
    "rate_limited": (Status, {"code": 429}),
    "redirect": (Redirect, {"location": "https://elsewhere.example/"}),
    "decode": (Html, {}),
    "schema": (Garbage, {}),
    "network": (Reset, {}),
    "http_4xx": (Status, {"code": 400}),
    "auth": (Status, {"code": 401}),
}


@pytest.mark.parametrize("reason", [*DISRUPTIONS, "half"])
def test_an_error_is_counted_by_reason_and_never_looks_like_an_empty_list(bench, reason):
    harm: Any = DISRUPTIONS.get(reason, (Half, {}))
    kind, fields = harm
    reason = "network" if reason == "half" else reason
    bench.poll()
    bench.busy(HOUR)
    bench.world.run("job-0", start=NOW + 5 * MINUTE, duration=HOUR)  # while it is open, every poll asks for runs
    bench.run(30 * MINUTE)
    before, mark = bench.counted(), bench.value("jobrun_source_watermark_timestamp_seconds")
    # Where each job has a list of its own, an API whose other lists answer is up, and the poll partial.
    bench.at(None if bench.ability.job_path else bench.ability.lists, kind, **fields)
    bench.run(10 * MINUTE)
    assert bench.value("jobrun_source_up") == 0
    assert bench.value("jobrun_source_poll_errors_total", reason=reason) >= 10  # each part counts
    assert bench.value("jobrun_source_watermark_timestamp_seconds") == mark
    assert {key: bench.counted()[key] for key in before} == before
    bench.simulator.disruptions.clear()
    bench.run(HOUR)
    assert bench.value("jobrun_source_up") == 1
    assert bench.counted() == bench.truth()


def test_an_outage_loses_nothing(bench):
    bench.poll()
    bench.busy(HOUR)
    bench.run(20 * MINUTE)
    bench.simulator.stop()
    bench.run(50 * MINUTE)
    assert bench.value("jobrun_source_poll_errors_total", reason="network") > 30
    assert bench.value("jobrun_source_up") == 0
    bench.simulator.start()
    bench.run(HOUR)
    bench.settle(40)
    assert bench.counted() == bench.truth()


def test_a_run_whose_end_is_lost_expires_as_unknown_and_affects_nothing_else(make):
    bench = make(max_run_age="1d")
    bench.poll()
    bench.world.run("stuck", start=NOW + 10, duration=60, run_id="stuck-run")
    bench.disruption(LostEnd, run_ids=("stuck-run",))
    bench.run(10 * MINUTE)
    assert bench.value("jobrun_active_runs", job_name="stuck") == 1
    bench.clock.advance(DAY)
    bench.settle()
    bench.simulator.disruptions.clear()
    bench.settle(10)
    assert bench.counted() == {("prod", "stuck", "unknown"): 1}
    assert bench.value("jobrun_active_runs", job_name="stuck") == 0
    assert bench.value("jobrun_run_duration_seconds_count", job_name="stuck") == 0


def test_a_long_run_is_followed_until_it_ends(bench):
    bench.poll()
    bench.world.run("long", start=NOW + 10, duration=3 * DAY + 5 * MINUTE)  # a poll may take a part of its interval
    bench.run(3 * DAY, every=HOUR)
    assert bench.counted() == {}
    bench.run(10 * MINUTE)
    assert bench.counted() == {("prod", "long", "success"): 1}


@pytest.mark.parametrize("wrong", [-30 * DAY, -HOUR, -200, -4, 4, 200, HOUR, 30 * DAY])
def test_a_wrong_clock_neither_loses_nor_repeats_a_run(make, wrong):
    bench = make()
    bench.poll()
    bench.busy(HOUR)
    bench.run(10 * MINUTE)
    bench.local.wrong = wrong
    bench.run(20 * MINUTE)
    assert bench.value("jobrun_source_up") == 1
    bench.local.wrong = 0.0
    bench.run(50 * MINUTE, every=2 * MINUTE)
    assert bench.counted() == bench.truth()
    assert bench.value(UNOBSERVED) == 0


@pytest.mark.parametrize("wrong", [-HOUR, -4, 4, HOUR])
def test_a_clock_wrong_from_the_start_does_not_move_the_baseline(make, wrong):
    bench = make()
    past(bench)
    bench.busy(40 * MINUTE)
    bench.local.wrong = wrong
    bench.poll()
    bench.run(80 * MINUTE, every=2 * MINUTE)
    wanted = bench.truth(since=NOW)
    assert abs(sum(wanted.values()) - bench.total()) <= (1 if abs(wrong) < 5 else 0)


def test_a_clock_wrong_by_more_than_the_lookback_makes_no_state_look_lost(bench):
    bench.poll()
    bench.run(10 * MINUTE)
    bench.local.wrong = 400 * DAY
    bench.restart()
    bench.poll()
    assert bench.value("jobrun_exporter_state_cold_starts_total", reason="lost") == 0


def test_a_job_included_while_the_clock_is_wrong_counts_from_that_poll(make):
    bench = make(jobs={"exclude": ["job-1"]})
    bench.poll()
    bench.run(10 * MINUTE)
    bench.local.wrong = HOUR
    bench.settings["jobs"] = {}
    bench.restart()
    included = bench.clock()
    bench.poll()
    bench.busy(30 * MINUTE)
    bench.run(60 * MINUTE)
    bench.settle(30)
    assert bench.counted() == bench.truth(since=included)


@pytest.mark.able("steps")
def test_steps_are_counted_once_each(make):
    bench = make(steps="all")
    bench.poll()
    for number in range(10):
        bench.world.run("dbt", start=NOW + number * 120, duration=60, steps=["load", "model"])
    bench.world.run("dbt", start=NOW + 1300, duration=60, steps=["load", "model"], result="failure")
    for _ in range(10):
        bench.restart()
        bench.run(4 * MINUTE)
    found = bench.samples("jobrun_steps_total", "step_name", "result")
    assert {key: value for key, value in found.items() if value} == {
        (bench.step("load"), "success"): 11,
        (bench.step("model", 1), "success"): 10,
        (bench.step("model", 1), "failure"): 1,
    }
    assert bench.value("jobrun_step_root_failures_total", step_name=bench.step("model", 1)) == 1


@pytest.mark.able("steps")
def test_failed_step_fetches_are_tried_again_and_survive_a_restart(make):
    bench = make(steps="all")
    bench.poll()
    bench.world.run("dbt", start=NOW + 10, duration=20, steps=["load"])
    bench.simulator.disruptions.add(Status(endpoint=bench.ability.steps, code=500))
    bench.run(5 * MINUTE)
    assert bench.value("jobrun_source_step_fetches_pending") == 1
    bench.restart()
    bench.simulator.disruptions.clear()
    bench.run(15 * MINUTE)
    assert bench.value("jobrun_steps_total", step_name=bench.step("load"), result="success") == 1
    assert bench.value("jobrun_source_step_fetches_pending") == 0


@pytest.mark.able("steps")
def test_steps_that_the_api_does_not_have_are_lost_and_counted(make):
    bench = make(steps="all")
    bench.poll()
    bench.world.run("dbt", start=NOW + 10, duration=20, steps=["load"])
    bench.simulator.disruptions.add(Status(endpoint=bench.ability.steps, code=404))
    bench.run(HOUR, every=5 * MINUTE)
    assert bench.value("jobrun_source_steps_lost_total") == 1
    assert bench.value("jobrun_source_step_fetches_pending") == 0


def test_every_status_of_a_vendor_has_a_result(bench):
    bench.poll()
    for number, result in enumerate(sorted(bench.ability.results)):
        bench.world.run(f"ends-{result}", start=NOW + 10 + number, duration=10, result=str(result))
    bench.settle()
    assert bench.counted() == {("prod", f"ends-{result}", str(result)): 1 for result in bench.ability.results}
