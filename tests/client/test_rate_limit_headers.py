import pytest

from exporter.client.limits import Limits, parse_date, parse_limits, parse_retry_after

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        (
            {"x-ratelimit-limit": "1000", "x-ratelimit-remaining": "990", "x-ratelimit-reset": "3599"},
            Limits(limit=1000, remaining=990, reset_seconds=3599),
        ),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "1700000060"}, Limits(remaining=1, reset_seconds=60)),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "1700000060000"}, Limits(remaining=1, reset_seconds=60)),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "1600000000"}, Limits(remaining=1, reset_seconds=0)),
        (
            {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "50", "ratelimit-reset": "30"},
            Limits(limit=100, remaining=50, reset_seconds=30),
        ),
        (
            {"ratelimit": "limit=100, remaining=50, reset=30"},
            Limits(limit=100, remaining=50, reset_seconds=30),
        ),
        (
            {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'},
            Limits(limit=100, remaining=50, reset_seconds=30),
        ),
        ({"x-ratelimit-limit": "60"}, Limits(limit=60)),
        ({"x-ratelimit-limit": "many", "x-ratelimit-remaining": "few"}, None),
        ({"x-ratelimit-limit": "-1"}, None),
        ({}, None),
    ],
)
def test_limits_are_read_in_every_habit(headers, limits):
    assert parse_limits(headers, NOW) == limits


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1e5", None),
        ("Tue, 99 Nov 2023", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after({"retry-after": value}, NOW) == seconds


def test_a_missing_retry_after_and_a_broken_date_are_none():
    assert parse_retry_after({}, NOW) is None
    assert parse_date("Mon, 99 Foo 99999999999 99:99:99") is None
