"""The number of requests of a poll of Snowplow."""

import pytest

from exporter.simulators.snowplow import SnowplowOptions
from exporter.simulators.snowplow_rows import SnowplowShape
from tests.contract.harness import DAY, HOUR, MINUTE, Bench


@pytest.fixture
def bench(tmp_path):
    bench = Bench("snowplow", tmp_path)
    yield bench
    bench.close()


def requested(bench, action):
    """Return the number of requests of an action, by endpoint."""
    before = counts(bench)
    action()
    return {name: count - before.get(name, 0) for name, count in counts(bench).items() if count > before.get(name, 0)}


def counts(bench):
    names = ("runs", "run", "steps", "step", "token_v3")
    return {name: number for name in names if (number := len(bench.simulator.log.lines(name)))}


def test_the_first_poll_signs_in_and_reads_seven_days_in_two_windows(bench):
    bench.world.run("daily", start=bench.clock() - 5 * DAY, duration=60)
    bench.world.run("daily", start=bench.clock() - DAY, duration=60)
    assert requested(bench, bench.poll) == {"token_v3": 1, "runs": 2, "steps": 1}


def test_the_oldest_window_is_not_refused_if_its_request_arrives_minutes_later(bench):
    bench.simulator.options = SnowplowOptions(reach=7 * DAY - 9 * MINUTE)
    assert bench.poll() == "success"


def test_the_smallest_budget_does_not_make_the_oldest_window_too_old(tmp_path):
    bench = Bench("snowplow", tmp_path, requests_per_minute=0.02)
    assert [bench.poll(), bench.poll()] == ["success", "success"]
    bench.close()


def test_an_idle_poll_is_one_request(bench):
    bench.busy(30 * MINUTE)
    bench.run(HOUR)
    assert requested(bench, lambda: bench.run(10 * MINUTE)) == {"runs": 10}


def test_a_completed_run_costs_one_request_for_its_steps(bench):
    bench.poll()
    bench.world.run("daily", start=bench.clock() + 60, duration=30, steps=["load"])
    assert requested(bench, lambda: bench.run(10 * MINUTE)) == {"runs": 10, "steps": 1}


def test_steps_are_not_requested_if_they_are_off(tmp_path):
    bench = Bench("snowplow", tmp_path, steps="off")
    bench.poll()
    bench.world.run("daily", start=bench.clock() + 60, duration=30, steps=["load"])
    assert requested(bench, lambda: bench.run(10 * MINUTE)) == {"runs": 10}
    bench.close()


def test_steps_are_requested_only_for_failed_runs_if_configured(tmp_path):
    bench = Bench("snowplow", tmp_path, steps="failed")
    bench.poll()
    for result in ("success", "failure"):
        bench.world.run("daily", start=bench.clock() + 60, duration=30, steps=["load"], result=result)
    assert requested(bench, lambda: bench.run(10 * MINUTE)) == {"runs": 10, "steps": 1}
    bench.close()


def test_a_run_open_for_longer_than_the_overlap_costs_one_more_request_per_poll(bench):
    bench.world.run("long", start=bench.clock() - 5 * HOUR, duration=DAY)
    bench.poll()
    assert requested(bench, lambda: bench.run(10 * MINUTE)) == {"runs": 10, "run": 10}


def test_a_run_that_the_api_forgot_expires_before_max_run_age(tmp_path):
    bench = Bench("snowplow", tmp_path, max_run_age="20d")
    bench.world.run("long", start=bench.clock() - HOUR, duration=400 * DAY)
    bench.poll()
    bench.run(7 * DAY - 2 * HOUR, every=6 * HOUR)
    assert bench.counted() == {}
    bench.run(2 * HOUR, every=HOUR)
    assert bench.counted() == {("prod", "long", "unknown"): 1}
    bench.close()


def test_a_completion_seen_by_id_includes_its_steps(bench):
    bench.world.run("long", start=bench.clock() - 5 * HOUR, duration=5 * HOUR + 5 * MINUTE, steps=["load"])
    bench.poll()
    assert "steps" not in requested(bench, lambda: bench.run(10 * MINUTE))
    assert bench.value("jobrun_steps_total", step_name="load", result="success") == 1


@pytest.mark.parametrize("lacking", ["jobName", "environment"])
def test_a_run_by_id_keeps_its_job_if_the_response_lacks_a_part_of_it(bench, lacking):
    bench.world.run("long", start=bench.clock() - 5 * HOUR, duration=5 * HOUR + 5 * MINUTE, steps=["load"])
    bench.poll()
    bench.simulator.options = SnowplowOptions(rows=SnowplowShape(omit=frozenset({lacking})))
    bench.run(10 * MINUTE)
    assert bench.counted() == {("prod", "long", "success"): 1}
    assert bench.value("jobrun_source_jobs") == 1


def test_an_hourly_sweep_needs_no_request_of_its_own(bench):
    bench.poll()
    assert requested(bench, lambda: bench.run(2 * HOUR)) == {"runs": 120}


def test_a_possibly_truncated_response_costs_one_request(bench):
    for number in range(100):  # of a job whose steps are not known yet: it may have up to 10,000 state changes
        bench.world.run("frequent", start=bench.clock() - 3 * DAY + number * 600, duration=60, steps=["load"])
    assert requested(bench, bench.poll)["runs"] == 3
    assert bench.value("jobrun_source_truncated_responses_total") == 0


@pytest.mark.parametrize("wrong", [-DAY, -3, 3, DAY])
def test_the_probe_works_with_a_wrong_local_clock(bench, wrong):
    bench.world.run("daily", start=bench.clock() - 600, duration=60)
    bench.local.wrong = wrong
    assert bench.assembly.sources["one"].probe() == "signed in, 1 runs in the last hour"
