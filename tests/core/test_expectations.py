from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from exporter.expectations import next_tick
from exporter.schedule import backoff


def at(text, zone="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("schedule", "timezone", "after", "expected"),
    [
        ("0 3 * * *", "", at("2024-01-01T02:00"), at("2024-01-01T03:00")),
        ("0 3 * * *", "", at("2024-01-01T03:00"), at("2024-01-02T03:00")),
        ("0 3 * * *", "Europe/Berlin", at("2024-07-01T02:00"), at("2024-07-02T03:00", "Europe/Berlin")),
        ("0 3 * * *", "Europe/Berlin", at("2024-01-01T01:30"), at("2024-01-01T03:00", "Europe/Berlin")),
        ("*/15 * * * *", "UTC", at("2024-01-01T00:07"), at("2024-01-01T00:15")),
        ("30 2 * * *", "Europe/Berlin", at("2024-03-30T12:00"), at("2024-03-31T03:00", "Europe/Berlin")),
        ("nonsense", "", 0.0, None),
        ("0 3 * * *", "Nowhere/Town", 0.0, None),
        ("0 0 30 2 *", "", 0.0, None),
        ("", "", 0.0, None),
    ],
)
def test_the_next_instant_of_a_schedule(schedule, timezone, after, expected):
    assert next_tick(schedule, timezone, after) == expected


@pytest.mark.parametrize(
    ("interval", "failures", "seconds"),
    [
        (60, 0, 60), (60, 1, 60), (60, 2, 120), (60, 3, 240), (60, 4, 300), (60, 50, 300),
        (10, 1, 10), (10, 2, 20), (10, 5, 100), (10, 1000, 100),
        (600, 1, 600), (600, 9, 600),
    ],
)  # fmt: skip
def test_polls_come_less_often_while_they_fail_but_never_more_often(interval, failures, seconds):
    assert backoff(interval, failures) == seconds
