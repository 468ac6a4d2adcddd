import pytest

from exporter.commands.backfill.progress import Progress
from exporter.simulators.clock import Clock


@pytest.fixture
def clock():
    return Clock(0.0)


@pytest.fixture
def told():
    return []


@pytest.fixture
def progress(told, clock):
    return Progress(told.append, clock)


def test_a_line_is_told_every_ten_seconds_however_many_there_are(progress, told, clock):
    for second in range(1, 36):
        clock.set(second)
        progress(f"at {second}")
    assert told == ["at 10", "at 20", "at 30"]


def test_a_part_that_is_over_at_once_is_not_told_of(progress, told, clock):
    clock.set(9.0)
    progress.begin()
    clock.set(18.0)
    progress("soon")
    assert told == []


def test_what_is_left_is_reckoned_from_the_beginning_of_the_part(progress, clock):
    clock.set(100.0)
    progress.begin()
    clock.set(110.0)
    assert progress.seconds_left(5, 20) == 30.0
