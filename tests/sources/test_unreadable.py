import pytest

from exporter.model import Window
from exporter.sources.unreadable import Waiting, awaited, counted

HOURS = [Window(hour * 3600.0, (hour + 1) * 3600.0) for hour in range(3)]


@pytest.fixture
def waiting():
    return Waiting()


def poll(waiting, *rows):
    """One poll of the windows with so many unreadable rows each; up to where each proves that all is read."""
    waiting.begin()
    proven = []
    for window, number in zip(HOURS, rows, strict=True):
        waiting.note(window, number)
        proven.append(waiting.through(window.end))
    waiting.end()
    return proven


def test_windows_without_such_rows_prove_what_they_hold(waiting):
    assert poll(waiting, 0, 0, 0) == [3600, 7200, 10800]


def test_nothing_is_proven_beyond_the_start_of_the_first_window_with_such_rows(waiting):
    assert poll(waiting, 0, 2, 0) == [3600, 3600, 3600]


def test_rows_are_waited_for_three_polls_and_no_more_until_one_had_none(waiting):
    held = [poll(waiting, 0, 0, 1)[-1] == 7200 for _ in range(6)]
    assert held == [True, True, True, False, False, False]
    poll(waiting, 0, 0, 0)
    assert poll(waiting, 0, 0, 1)[-1] == 7200


def test_a_poll_that_broke_off_does_not_count(waiting):
    for _ in range(10):
        waiting.begin()
        waiting.note(HOURS[0], 1)
    assert poll(waiting, 1, 0, 0) == [0, 0, 0]


def test_polls_are_counted_up_to_one_beyond_the_last_that_waits():
    polls = [0]
    for _ in range(6):
        polls.append(counted(polls[-1], 5))
    assert polls == [0, 1, 2, 3, 4, 4, 4]
    assert [awaited(number) for number in polls] == [False, True, True, True, False, False, False]
    assert counted(4, 0) == 0
