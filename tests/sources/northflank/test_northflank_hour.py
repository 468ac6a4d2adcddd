"""An hour of a project of 100 jobs, on a clock that only waiting moves."""

import random

import pytest

NOW = 1_700_000_000.0
HOUR = 3600.0
JOBS = 100


@pytest.fixture
def project(world):
    """Add 100 jobs that ran some hours ago; with `project(10)`, 10 of them keep running from now on."""

    def make(busy: int = 0, length: float = 400.0) -> None:
        dice = random.Random(1)  # noqa: S311  # the runs of a test
        for number in range(JOBS):
            world.run(f"job{number}", start=NOW - 5 * HOUR + number, duration=60.0)
        for number in range(busy):
            start = NOW - dice.uniform(0, length)
            while start < NOW + 3 * HOUR:
                duration = length * dice.uniform(0.5, 1.5)
                world.run(f"job{number}", start=start, duration=duration)
                start += duration + dice.uniform(5, 30)

    return make


@pytest.fixture
def delays(exporter):
    """Record the seconds from the end of each counted run to its commit."""
    seen, commit = [], exporter.ledger.commit

    def watched(*arguments):
        entered = commit(*arguments)
        seen.extend(entered.delays)
        return entered

    exporter.ledger.commit = watched
    return seen


def most_in_an_hour(simulator) -> int:
    times = [line.time for line in simulator.log.lines()]
    return max(sum(start <= time < start + HOUR for time in times) for start in times)


@pytest.mark.parametrize("busy", [10, 100])
def test_a_project_of_100_jobs_stays_inside_1000_requests_in_any_hour(exporter, project, simulator, busy):
    project(busy)
    assert set(exporter.live(1.25 * HOUR)) == {"success"}
    assert all(line.status == 200 for line in simulator.log.lines())
    assert 700 < most_in_an_hour(simulator) <= 900


def test_with_10_of_100_jobs_active_a_completion_is_seen_within_2_minutes(exporter, project, delays):
    project(busy=10)
    exporter.live(600)  # every job has been read once
    delays.clear()
    exporter.live(HOUR)
    delays.sort()
    assert len(delays) > 60
    assert delays[int(0.95 * len(delays))] <= 120


def test_an_hour_of_100_jobs_counts_every_completion(exporter, project, simulator, clock):
    project(busy=10)
    exporter.live(HOUR)
    until = exporter.watermark()
    truth = simulator.truth(NOW, until)
    counted = sum(exporter.counted().values())
    assert len(truth.endings) <= counted <= len(simulator.truth(NOW).endings)
    assert until > clock() - exporter.source.seconds_per_round() - 2 * 60


def test_a_round_of_100_jobs_takes_about_8_minutes_and_each_poll_less_than_its_interval(exporter, project, clock):
    project()
    ages = []
    exporter.live(HOUR, lambda: ages.append(clock() - (exporter.watermark() or NOW)))
    assert max(ages[-30:]) < 12 * 60
    assert exporter.source.seconds_per_round() <= 600
    assert max(exporter.lasted) <= 60
    assert len(exporter.lasted) == 60
