"""Secrets and customer data are never shown, and scrapes never wait."""

import time

import pytest

from exporter.simulators.disruptions import Hang, Slow
from exporter.simulators.world import MARK
from tests.contract.harness import HOUR, MINUTE, NOW, RUNS, UNOBSERVED


def secrets(block):
    """All values of the sign-in of a configured source."""
    return [str(value) for key, value in block["auth"].items() if not key.endswith("_id") and key != "username"]


def test_neither_customer_data_nor_secrets_are_found_anywhere(bench):
    bench.poll()
    bench.busy(20 * MINUTE, steps=["load", "model"])
    bench.run(10 * MINUTE)
    bench.disruption(Slow, chunk=10_000, pause=0.0, count=1)
    bench.simulator.stop()
    bench.run(2 * MINUTE)
    bench.simulator.start()
    bench.run(10 * MINUTE)
    assert bench.total() > 0
    page, logs = bench.page(), bench.logs.getvalue()
    files = b"".join(path.read_bytes() for path in bench.state.parent.iterdir() if path.is_file())
    assert len(logs) > 100
    for word in (MARK, *secrets(bench.simulator.source_config())):
        assert word not in page
        assert word not in logs
        assert word.encode() not in files


def test_an_api_that_hangs_blocks_no_scrape_and_is_counted_as_a_timeout(make):
    bench = make(timeout="1s")
    bench.world.run("old", start=NOW - 60, duration=HOUR)  # while it is open, every poll asks for runs
    bench.poll()
    bench.busy(10 * MINUTE)
    bench.run(5 * MINUTE)
    before = bench.counted()
    bench.disruption(Hang, count=3)
    begun = time.monotonic()
    bench.run(MINUTE)
    assert time.monotonic() - begun < 10
    assert bench.value("jobrun_source_poll_errors_total", reason="timeout") >= 1  # each hanging part counts
    assert bench.counted() == before
    bench.run(70 * MINUTE)
    assert bench.counted() == bench.truth()


@pytest.mark.parametrize("down", [0, 90])
def test_served_increases_add_up_to_the_completed_runs(make, down):
    bench = make(metrics={"zero_first": "2m"})
    last, steps = {}, 0.0

    def scrape():
        nonlocal steps
        bench.publisher.tick()
        for key, value in bench.samples(RUNS, "project", "job_name", "result").items():
            assert value >= last.get(key, 0)
            steps += value - last.get(key, value)
            last[key] = value

    bench.world.run("old", start=NOW - 5000, duration=60)
    bench.poll()
    scrape()
    bench.busy(20 * MINUTE)
    for minute in range(50):
        bench.run(MINUTE)
        scrape()
        if minute % 9 == 8:
            bench.restart(down=down)
            scrape()
    for _ in range(4):
        bench.run(MINUTE)
        scrape()
    assert steps == sum(bench.truth().values()) > 0
    assert bench.value(UNOBSERVED) == 0
