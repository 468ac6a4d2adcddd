"""The numbers are the same for every likely shape of Snowplow's responses."""

import pytest

from exporter.simulators.snowplow import SnowplowOptions
from exporter.simulators.snowplow_rows import SnowplowShape
from tests.contract.harness import HOUR, MINUTE, NOW, Bench

WORDS = {
    "SUCCEEDED": "SUCCESS",
    "FAILED": "ERROR",
    "RUNNING": "IN_PROGRESS",
    "WAITING": "QUEUED",
}
SHAPES = {
    "as usual": {},
    "wrapped": {"envelope": "content", "run_envelope": "run", "steps_envelope": "taskStates"},
    "wrapped in data": {"envelope": "data", "run_envelope": "data"},
    "zone in brackets": {"times": "zoned"},
    "zone in brackets and offset": {"times": "zoned", "offset_minutes": 0, "fraction_digits": 9},
    "zone by name": {"times": "named"},
    "microseconds": {"times": "epoch_us"},
    "nanoseconds": {"times": "epoch_ns"},
    "snake case": {"names": {"startTime": "start_time", "runId": "run_id", "jobName": "job_name"}},
    "other words": {"words": WORDS},
    "clock": {"durations": "clock"},
    "words": {"durations": "words"},
    "object": {"durations": "object"},
    "milliseconds": {"durations": "milliseconds"},
}


@pytest.fixture
def watch(tmp_path):
    benches = []

    def make(shape):
        benches.append(Bench("snowplow", tmp_path, steps="all"))
        benches[-1].simulator.options = SnowplowOptions(rows=SnowplowShape(**shape))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_gives_the_same_numbers(watch, shape):
    bench = watch(shape)
    bench.world.run("old", start=NOW - HOUR, duration=300, steps=["load"])
    bench.world.run("long", start=NOW - 10, duration=2 * HOUR, result="failure")
    bench.poll()
    lengths = [2.5, 20.0, 300.0, 700.0]
    for number, length in enumerate(lengths):
        start = NOW + 60 + number * 100
        bench.world.run("job-0", start=start, duration=length, steps=["load"], result="success")
    bench.run(2 * HOUR + 10 * MINUTE, every=5 * MINUTE)
    assert bench.counted() == {("prod", "job-0", "success"): 4, ("prod", "long", "failure"): 1}
    assert bench.value("jobrun_run_duration_seconds_sum", job_name="job-0") == pytest.approx(sum(lengths))
    assert bench.value("jobrun_run_duration_seconds_sum", job_name="long") == pytest.approx(2 * HOUR)
    assert bench.value("jobrun_last_run_end_timestamp_seconds", job_name="long") == pytest.approx(NOW - 10 + 2 * HOUR)
    assert bench.value("jobrun_steps_total", step_name="load", result="success") == 5 - 1
    assert bench.value("jobrun_source_poll_errors_total") == 0
    assert bench.value("jobrun_source_unmapped_status_total") == 0
    assert "cannot be read" not in bench.logs.getvalue()


def test_unreadable_times_are_logged_once_and_lose_no_run(watch):
    bench = watch({"extra": {"startTime": "Order 4711", "duration": "soon"}})
    bench.poll()
    for number in range(5):
        bench.world.run("job-0", start=NOW + 60 + number * 60, duration=20)
    bench.run(20 * MINUTE)
    assert bench.counted() == {("prod", "job-0", "success"): 5}
    logs = bench.logs.getvalue()
    assert logs.count("start time of a run cannot be read") == 1
    assert logs.count("duration of a run cannot be read") == 1
    assert "4711" not in logs
    assert bench.value("jobrun_source_runs_fetched_total", disposition="invalid") == 0


def test_an_end_in_the_future_is_logged_once_and_does_not_move_the_watermark(watch):
    bench = watch({"extra": {"duration": "P2D"}})
    bench.poll()
    for number in range(3):
        bench.world.run("job-0", start=NOW + 60 + number * 60, duration=20)
    bench.run(20 * MINUTE)
    assert bench.counted() == {("prod", "job-0", "success"): 3}
    assert bench.logs.getvalue().count("end of a run is in the future") == 1
    assert bench.clock() - 3 * MINUTE < bench.value("jobrun_source_watermark_timestamp_seconds") < bench.clock()
