"""Snowplow silently truncates responses to the latest state changes: no run may be lost by that."""

import json

import pytest

from exporter.model import Window
from exporter.simulators.disruptions import Drop
from exporter.simulators.message import json_response
from exporter.simulators.snowplow import SnowplowOptions
from exporter.sources.snowplow.source import SnowplowSource
from tests.contract.harness import DAY, HOUR, MINUTE, UNOBSERVED, Bench
from tests.fuzz.corrupting_transport import CorruptingTransport

LIMIT = 300
TRUNCATED = "jobrun_source_truncated_responses_total"


def sharp(settings, client):
    return SnowplowSource(settings, client, event_limit=LIMIT)


@pytest.fixture
def bench(tmp_path):
    bench = Bench("snowplow", tmp_path, build=sharp)
    bench.simulator.options = SnowplowOptions(event_limit=LIMIT)
    yield bench
    bench.close()


def add_burst(bench, start, number, seconds):
    """Add runs of 5 events each, spread over this many seconds."""
    for each in range(number):
        bench.world.run("many", start=round(start + each * seconds / number, 3), duration=30, steps=["load"])


def requested(bench):
    return len(bench.simulator.log.lines("runs"))


@pytest.mark.parametrize(
    ("after", "number", "seconds"),
    [(0, 400, DAY), (0, 400, HOUR), (23 * HOUR, 400, HOUR - 60), (12 * HOUR, 300, 40), (DAY - 400, 350, 200)],
)
def test_a_burst_during_a_downtime_is_counted_completely(bench, after, number, seconds):
    add_burst(bench, bench.clock() - HOUR, 1, 1)
    bench.poll()
    add_burst(bench, bench.clock() + 10 + after, number, seconds)
    bench.restart(down=DAY)
    before = requested(bench)
    bench.poll()
    assert bench.counted() == bench.truth()
    assert bench.total() == number
    assert bench.value(TRUNCATED) >= 1
    assert bench.value(UNOBSERVED) == 0
    assert requested(bench) - before < 2 * number


def test_a_few_runs_of_many_steps_are_counted_completely(tmp_path):
    bench = Bench("snowplow", tmp_path, wire=CorruptingTransport)
    steps = [f"step-{number}" for number in range(400)]
    bench.poll()
    bench.world.run("wide", start=bench.clock() + 10, duration=30, steps=steps)
    bench.run(10 * MINUTE)
    for number in range(40):
        bench.world.run("wide", start=bench.clock() + number * MINUTE, duration=30, steps=steps)
    bench.restart(down=2 * HOUR)
    bench.poll()
    assert bench.total() == 41
    assert bench.value(TRUNCATED) >= 1
    bench.close()


@pytest.mark.parametrize(
    ("settings", "known_at"),
    [({"sweep": "off"}, -20 * MINUTE), ({}, -2 * DAY)],
    ids=["a known run is missing", "the first half is empty"],
)
def test_a_truncation_is_noticed_even_if_runs_have_more_steps_than_known(tmp_path, settings, known_at):
    bench = Bench("snowplow", tmp_path, build=sharp, **settings)
    bench.simulator.options = SnowplowOptions(event_limit=LIMIT)
    bench.world.run("many", start=bench.clock() + known_at, duration=30, steps=["load"])
    bench.poll()
    for number in range(40):
        start = bench.clock() + 5 * MINUTE + number * 260
        bench.world.run("many", start=start, duration=30, steps=["load", "test", "model"])
    bench.restart(down=3 * HOUR)
    bench.poll()
    assert bench.total() == 40
    assert bench.value(TRUNCATED) >= 1
    bench.close()


def test_one_run_with_wrong_times_does_not_hide_a_truncation(bench):
    add_burst(bench, bench.clock() - HOUR, 1, 1)
    bench.poll()
    add_burst(bench, bench.clock() + HOUR, 400, HOUR)
    bench.restart(down=DAY)
    original = bench.simulator.answer

    def answer(request, route):
        response = original(request, route)
        if request.endpoint != "runs":
            return response
        wrong = {"runId": "w", "jobName": "w", "environment": "prod", "state": "FAILED", "duration": "PT1S"}
        return json_response([*json.loads(response.body), {**wrong, "startTime": "2020-01-01T00:00:00Z"}])

    bench.simulator.answer = answer
    bench.poll()
    assert bench.counted() == bench.truth()


def test_a_burst_within_one_second_cannot_be_split_and_that_second_is_reported_once(bench):
    add_burst(bench, bench.clock() - HOUR, 1, 1)
    bench.poll()
    add_burst(bench, bench.clock() + 3600, 400, 0.5)
    bench.restart(down=2 * HOUR)
    for _ in range(3):
        bench.poll()
        bench.clock.advance(MINUTE)
    missing = 400 - bench.total()
    assert bench.value(UNOBSERVED) == 1
    assert 0 < missing < 400
    ((start, end),) = bench.ledger.source("one").unobserved
    assert sum(bench.truth(since=start, until=end + 40).values()) >= missing


def ignore_bounds(simulator):
    """Make a simulated API ignore `from` and `to`."""
    simulator._allowed = lambda _window, now: Window(now - 7 * DAY, now)


@pytest.mark.parametrize("drops", [False, True])
def test_an_api_that_ignores_the_bounds_gets_few_requests(bench, drops):
    add_burst(bench, bench.clock() - DAY, 120, 20 * HOUR)
    ignore_bounds(bench.simulator)
    if drops:
        bench.simulator.disruptions.add(Drop(endpoint="runs", share=0.2))
    bench.poll()
    assert requested(bench) == 2
    bench.run(5 * MINUTE)
    assert requested(bench) == 7


def test_an_api_that_drops_rows_gets_few_requests(bench):
    add_burst(bench, bench.clock() - DAY, 140, 20 * HOUR)
    bench.simulator.disruptions.add(Drop(endpoint="runs", share=0.3))
    bench.poll()
    assert requested(bench) < 300


@pytest.mark.parametrize("wrong", [-30 * DAY, 30 * DAY])
def test_windows_requested_by_a_wrong_clock_prove_nothing(bench, wrong):
    bench.simulator.options = SnowplowOptions(future_to="accepted", longest_window=40 * DAY, reach=100 * DAY)
    bench.poll()
    add_burst(bench, bench.clock() + 10, 10, 600)
    bench.local.wrong = wrong
    bench.run(10 * MINUTE)
    bench.local.wrong = 0.0
    bench.run(5 * MINUTE)
    assert bench.counted() == bench.truth()
    assert bench.value(UNOBSERVED) == 0
