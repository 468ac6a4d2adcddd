import contextlib
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cron import Schedule, next_tick, parse_schedule


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
        # dialects
        ("@daily", "", at("2024-01-01T02:00"), at("2024-01-02T00:00")),
        ("@Midnight", "Europe/Berlin", at("2024-01-01T02:00"), at("2024-01-02T00:00", "Europe/Berlin")),
        ("@hourly", "", at("2024-01-01T02:10"), at("2024-01-01T03:00")),
        ("@weekly", "", at("2024-01-01T02:10"), at("2024-01-07T00:00")),
        ("@monthly", "", at("2024-01-01T02:10"), at("2024-02-01T00:00")),
        ("@yearly", "", at("2024-01-01T02:10"), at("2025-01-01T00:00")),
        ("TZ=Europe/Berlin 0 3 * * *", "", at("2024-01-01T01:30"), at("2024-01-01T03:00", "Europe/Berlin")),
        ("CRON_TZ=Asia/Tokyo  @daily", "UTC", at("2024-01-01T01:30"), at("2024-01-02T00:00", "Asia/Tokyo")),
        ("0 3 ? * MON", "", at("2024-01-02T01:30"), at("2024-01-08T03:00")),
        ("0 3 1 * ?", "utc", at("2024-01-02T01:30"), at("2024-02-01T03:00")),
        ("30 0 3 * * ?", "", at("2024-01-01T01:30"), at("2024-01-01T03:00:30")),
        ("*/20 * * * * *", "", at("2024-01-01T00:00:05"), at("2024-01-01T00:00:20")),
        (" 0\t3 * * *\n", " ".strip(), at("2024-01-01T02:00"), at("2024-01-01T03:00")),
    ],
)
def test_the_next_time_of_a_schedule_is_computed(schedule, timezone, after, expected):
    assert next_tick(parse_schedule(schedule, timezone), after) == expected


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        ("@every 24h", 86400),
        ("@every 1h30m0s", 5400),
        ("@every 1.5h", 5400),
        ("@EVERY  90s", 90),
        ("@every 7d", 604800),
    ],
)
def test_a_fixed_interval_is_parsed(schedule, seconds):
    assert parse_schedule(schedule) == Schedule(every=seconds)


@pytest.mark.parametrize(
    ("schedule", "timezone"),
    [
        ("nonsense", ""),
        ("", ""),
        ("@reboot", ""),
        ("@every", ""),
        ("@every day", ""),
        ("@every 0s", ""),
        ("@every 10ms", ""),
        ("0 3 * *", ""),
        ("0 12 * * ? *", ""),
        ("0 3 * * * 2026", ""),
        ("0 0 12 * * ? 2026", ""),
        ("0 0 30 2 *", ""),
        ("0 3 ? ? *", ""),
        ("H 3 * * *", ""),
        ("0 3 * * *", "PST8PDT7"),
        ("0 3 * * *", "../../etc/passwd"),
        ("0 3 * * *", "Europe"),
        ("TZ=Nowhere/Town 0 3 * * *", "UTC"),
        ("TZ=UTC", ""),
    ],
)
def test_an_invalid_schedule_is_refused(schedule, timezone):
    with pytest.raises(ValueError, match=r"\w"):
        parse_schedule(schedule, timezone)


@given(st.text(alphabet="0123456789*/,-?@LW#TZ= everydailymon\n\x00", max_size=40), st.text(max_size=10))
def test_no_text_raises_any_other_error(schedule, timezone):
    with contextlib.suppress(ValueError):
        schedule = parse_schedule(schedule, timezone)
        assert schedule.every >= 1 or next_tick(schedule, at("2024-01-01")) is not None
