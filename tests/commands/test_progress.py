import pytest

from exporter.commands.backfill.reading import Progress
from exporter.simulators.clock import Clock


@pytest.fixture
def clock():
    return Clock(0.0)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def progress(lines, clock):
    return Progress(lines.append, clock)


def test_progress_is_logged_every_ten_seconds_however_often_it_is_reported(progress, lines, clock):
    for second in range(1, 36):
        clock.set(second)
        progress(f"at {second}")
    assert lines == ["at 10", "at 20", "at 30"]


def test_a_part_of_less_than_ten_seconds_is_not_logged(progress, lines, clock):
    clock.set(9.0)
    progress.start_part()
    clock.set(18.0)
    progress("soon")
    assert lines == []


def test_the_remaining_time_is_estimated_from_the_start_of_the_part(progress, clock):
    clock.set(100.0)
    progress.start_part()
    clock.set(110.0)
    assert progress.seconds_left(5, 20) == 30.0
