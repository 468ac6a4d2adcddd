import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.client.limits import Limits, parse_date, parse_limits, parse_retry_after

NOW = 1_700_000_000.0
NAMES = [
    *(f"{prefix}-{field}" for prefix in ("x-ratelimit", "ratelimit") for field in ("limit", "remaining", "reset")),
    *("ratelimit", "ratelimit-policy", "retry-after"),
]


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
        (
            {"x-ratelimit-limit": "100000, 100000", "x-ratelimit-remaining": "99342, 100000"},
            Limits(limit=100000, remaining=99342),
        ),
        (
            {
                "x-ratelimit-limit": "1000, 60",
                "x-ratelimit-remaining": "900, 3",
                "x-ratelimit-reset": "3000, 20",
            },
            Limits(limit=60, remaining=3, reset_seconds=20),
        ),
        (
            {"x-ratelimit-limit": "1000, 60", "x-ratelimit-remaining": "3, 50", "x-ratelimit-reset": "30"},
            Limits(limit=1000, remaining=3, reset_seconds=30),
        ),
        ({"ratelimit-limit": "100;w=60", "ratelimit-remaining": "5"}, Limits(limit=100, remaining=5)),
        (
            {"ratelimit-limit": "10, 10;w=1, 1000;w=3600", "ratelimit-remaining": "5", "ratelimit-reset": "1"},
            Limits(limit=10, remaining=5, reset_seconds=1),
        ),
        (
            {
                "x-ratelimit-remaining": "50",
                "x-ratelimit-limit": "60",
                "ratelimit-remaining": "2",
                "ratelimit-limit": "10",
            },
            Limits(limit=10, remaining=2),
        ),
        (
            {"ratelimit": "limit=100, remaining=50, reset=30", "ratelimit-policy": "100;w=60"},
            Limits(limit=100, remaining=50, reset_seconds=30),
        ),
        (
            {"ratelimit": "remaining=50, reset=30", "ratelimit-policy": "100;w=60"},
            Limits(limit=100, remaining=50, reset_seconds=30),
        ),
        (
            {
                "ratelimit": '"day";r=900;t=3000, "burst, short";r=5;t=1',
                "ratelimit-policy": '"day";q=1000;w=86400, "burst, short";q=10;w=1',
            },
            Limits(limit=10, remaining=5, reset_seconds=1),
        ),
        ({"ratelimit": "default;r=50;t=30"}, Limits(remaining=50, reset_seconds=30)),
        ({"x-rate-limit-limit": "60", "x-rate-limit-remaining": "0"}, Limits(limit=60, remaining=0)),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset-after": "2.5"}, Limits(remaining=1, reset_seconds=2.5)),
        ({}, None),
    ],
)
def test_limits_are_parsed_in_every_style(headers, limits):
    assert parse_limits(headers, NOW) == limits


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("30", 30),
        ("30.5", 30.5),
        ("0", 0),
        ("3600", 3600),
        ("1700000030", 30),
        ("1700000029.5", 30),
        ("1700000030000", 30),
        ("1700000030000000", 30),
        ("1700000030000000000", 30),
        ("1600000000", 0),
        ("2023-11-14T22:13:50Z", 30),
        ("2023-11-14T22:13:49.5Z", 30),
        ("2023-11-14t22:13:50z", 30),
        ("2023-11-14 22:13:50Z", 30),
        ("2023-11-14T23:13:50+01:00", 30),
        ("2023-11-14T22:13:50.123456789Z", 31),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 22:13:50 GMT, Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("30, 30", 30),
        (" 30 ", 30),
    ],
)
def test_the_reset_of_a_rate_limit_may_be_seconds_or_a_time_in_any_form(reset, seconds):
    headers = {"x-ratelimit-remaining": "5", "x-ratelimit-reset": reset}
    assert parse_limits(headers, NOW) == Limits(remaining=5, reset_seconds=seconds)


@pytest.mark.parametrize(
    ("reset", "why"),
    [
        ("-5", "x-ratelimit reset: is not within an hour"),
        ("3601", "x-ratelimit reset: is not within an hour"),
        ("9" * 30, "x-ratelimit reset: is not within an hour"),
        ("2099-01-01T00:00:00Z", "x-ratelimit reset: is not within an hour"),
        ("Fri, 14 Nov 2099 22:13:50 GMT", "x-ratelimit reset: is not within an hour"),
        ("9" * 40, "x-ratelimit reset: is neither seconds nor a time"),
        ("2023-11-14T22:13:50", "x-ratelimit reset: is neither seconds nor a time"),
        ("2023-11-31T22:13:50Z", "x-ratelimit reset: is neither seconds nor a time"),
        ("soon", "x-ratelimit reset: is neither seconds nor a time"),
        ("6m0s", "x-ratelimit reset: is neither seconds nor a time"),
        ("1e3", "x-ratelimit reset: is neither seconds nor a time"),
    ],
)
def test_an_impossible_reset_is_ignored_and_the_rest_is_kept(reset, why):
    headers = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "5", "x-ratelimit-reset": reset}
    assert parse_limits(headers, NOW) == Limits(limit=100, remaining=5, ignored=(why,))


@pytest.mark.parametrize(
    ("limit", "remaining", "why"),
    [
        ("0", "0", "x-ratelimit limit: is not between 1 and 1000000000"),
        ("-1", "", "x-ratelimit limit: is not between 1 and 1000000000"),
        ("9" * 20, "5", "x-ratelimit limit: is not between 1 and 1000000000"),
        ("", "-1", "x-ratelimit remaining: is not between 0 and 1000000000"),
        ("many", "", "x-ratelimit limit: is not a number"),
        ("", "few", "x-ratelimit remaining: is not a number"),
    ],
)
def test_an_impossible_limit_is_ignored(limit, remaining, why):
    headers = {"x-ratelimit-limit": limit, "x-ratelimit-remaining": remaining, "x-ratelimit-reset": "60"}
    assert parse_limits(headers, NOW) == Limits(ignored=(why,))


@given(st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(codec="latin-1"), max_size=40)), st.floats(0, 4e9))
def test_no_header_raises_or_blocks_for_more_than_an_hour(headers, now):
    limits = parse_limits(headers, now)
    if limits is not None and limits.reset_seconds is not None:
        assert 0 <= limits.reset_seconds <= 3600
    parse_retry_after(headers, now)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("2023-11-14T22:14:20Z", 60.0),
        ("1700000060", 60.0),
        ("999999999", 999999999.0),
        ("30, 60", 60.0),
        ("60,soon", 60.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT, Tue, 14 Nov 2023 22:15:20 GMT", 120.0),
        ("5s", None),
        ("1e5", None),
        ("Tue, 99 Nov 2023", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after({"retry-after": value}, NOW) == seconds


def test_a_missing_retry_after_and_a_broken_date_are_parsed_as_none():
    assert parse_retry_after({}, NOW) is None
    assert parse_date("Mon, 99 Foo 99999999999 99:99:99") is None


@pytest.mark.parametrize(
    "date",
    [
        "Tue, 14 Nov 2023 22:13:20 GMT",
        "Tue, 14 Nov 2023 22:13:20 -0000",
        "Tuesday, 14-Nov-23 22:13:20 GMT",
        "Tue Nov 14 22:13:20 2023",
    ],
)
def test_a_date_without_a_zone_is_utc_wherever_the_exporter_runs(date):
    code = f"from exporter.client.limits import parse_date; print(parse_date({date!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "TZ": "Asia/Tokyo"})  # noqa: S603  # runs this Python
    assert float(done.stdout) == NOW
