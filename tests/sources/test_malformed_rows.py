import pytest

from exporter.model import Window
from exporter.sources.windows import MalformedRows

HOURS = [Window(hour * 3600.0, (hour + 1) * 3600.0) for hour in range(3)]


@pytest.fixture
def malformed():
    return MalformedRows()


def poll(malformed, *rows):
    """Poll windows with these numbers of malformed rows; return up to where each proves that all is read."""
    malformed.start_poll()
    proven = []
    for window, number in zip(HOURS, rows, strict=True):
        malformed.add(window, number)
        proven.append(malformed.limit(window.end))
    malformed.end_poll()
    return proven


def test_windows_without_malformed_rows_are_proven(malformed):
    assert poll(malformed, 0, 0, 0) == [3600, 7200, 10800]


def test_nothing_is_proven_beyond_the_start_of_the_first_window_with_malformed_rows(malformed):
    assert poll(malformed, 0, 2, 0) == [3600, 3600, 3600]


def test_the_watermark_waits_three_polls_for_malformed_rows(malformed):
    waits = [poll(malformed, 0, 0, 1)[-1] == 7200 for _ in range(6)]
    assert waits == [True, True, True, False, False, False]
    poll(malformed, 0, 0, 0)
    assert poll(malformed, 0, 0, 1)[-1] == 7200


def test_a_poll_that_failed_does_not_count(malformed):
    for _ in range(10):
        malformed.start_poll()
        malformed.add(HOURS[0], 1)
    assert poll(malformed, 1, 0, 0) == [0, 0, 0]
