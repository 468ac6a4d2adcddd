"""A response with a wrong `Date`, for example from a cache, changes nothing."""

import json

import pytest

from exporter.simulators.disruptions import Reset, WrongDate
from tests.contract.harness import DAY, HOUR, MINUTE, NOW, UNOBSERVED

MARK = "jobrun_source_watermark_timestamp_seconds"
WRONG = [-400 * DAY, -HOUR, HOUR, 30 * DAY, 400 * DAY]


def strike(bench, wrong):
    bench.at(None, WrongDate, seconds=wrong, count=1)


def assert_nothing_came_of_it(bench):
    bench.run(60 * MINUTE, every=2 * MINUTE)
    bench.settle(30)
    assert bench.counted() == bench.truth()
    assert bench.value(UNOBSERVED) == 0
    lines = [json.loads(line) for line in bench.logs.getvalue().splitlines()]
    assert {line["outcome"] for line in lines if line["event"] == "poll finished"} == {"success"}
    others = [line["event"] for line in lines if line["event"] != "poll finished"]
    assert len(others) == len(set(others))  # nothing is logged twice
    assert not bench.simulator.disruptions.current()


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_date_among_correct_ones_changes_nothing(bench, wrong):
    bench.poll()
    bench.busy(HOUR)
    bench.run(10 * MINUTE)
    mark = bench.value(MARK)
    strike(bench, wrong)
    bench.run(MINUTE)
    assert mark <= bench.value(MARK) <= bench.clock()
    assert_nothing_came_of_it(bench)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_date_of_the_first_response_does_not_move_the_baseline(bench, wrong):
    bench.busy(HOUR)
    strike(bench, wrong)
    bench.poll()
    assert bench.value(MARK) <= bench.clock()
    assert_nothing_came_of_it(bench)


@pytest.mark.parametrize("wrong", WRONG)
def test_occasional_wrong_dates_change_nothing(bench, wrong):
    bench.poll()
    bench.busy(HOUR)
    for _ in range(10):
        strike(bench, wrong)
        bench.run(2 * MINUTE)
        assert bench.value(MARK) <= bench.clock()
    assert_nothing_came_of_it(bench)


@pytest.mark.parametrize("responses", [2, 6])
def test_wrong_dates_in_a_row_expire_no_active_run(bench, responses):
    bench.poll()
    bench.busy(HOUR)
    bench.run(10 * MINUTE)
    bench.at(None, WrongDate, seconds=30 * DAY, count=responses)
    bench.run(60 * MINUTE, every=2 * MINUTE)
    bench.settle(30)
    assert bench.counted() == bench.truth()


@pytest.mark.parametrize("wrong", [-365 * DAY, 30 * DAY])
def test_a_clock_set_right_only_after_the_first_polls_failed_does_not_move_the_baseline(bench, wrong):
    for hours in (0.3, 5):
        bench.world.run("old", start=bench.clock() - hours * HOUR, duration=60)
    bench.busy(HOUR)
    bench.local.wrong = wrong
    bench.at(None, Reset)
    bench.run(3 * MINUTE)
    bench.local.wrong = 0.0
    bench.simulator.disruptions.clear()
    bench.run(60 * MINUTE, every=2 * MINUTE)
    bench.settle(30)
    assert bench.counted() == bench.truth(since=NOW + MINUTE)
