import random
from typing import Any

import pytest

from exporter.learning import cadence as learning
from exporter.learning.cadence import DAY, HOUR, MINUTE
from tests.core.start_times import (
    AUTUMN,
    EVERY_DAY,
    SPRING,
    WORKDAYS,
    alarms,
    at_times,
    by_chance,
    days_until_known,
    each,
)


def cadence(*starts) -> Any:
    """Return the cadence, which may be None."""
    return learning.cadence(*starts)


OFFICE = [f"{hour:02}:00" for hour in range(9, 18)]

REGULAR = {
    "daily": at_times(60, ["03:00"]),
    "daily, up to 20 minutes late": at_times(60, ["03:00"], jitter=20 * MINUTE),
    "daily, some time in three hours": at_times(60, ["01:00"], jitter=3 * HOUR),
    "daily, some time in five hours": at_times(60, ["01:00"], jitter=5 * HOUR),
    "daily, clocks set back": at_times(60, ["03:30"], first=AUTUMN),
    "round midnight": at_times(40, ["23:58"], jitter=5 * MINUTE, zone="UTC"),
    "on workdays": at_times(70, ["06:00"], on=WORKDAYS),
    "all days but Sunday": at_times(70, ["06:00"], on=range(6)),
    "on Mondays": at_times(100, ["06:00"], on=[0]),
    "twice a day, clocks set forward": at_times(60, ["03:00", "15:00"]),
    "twice a day, clocks set back": at_times(60, ["03:00", "15:00"], first=AUTUMN),
    "three times a day, some close": at_times(60, ["06:00", "07:00", "09:00"]),
    "in office hours, clocks set forward": at_times(60, OFFICE, on=WORKDAYS),
    "in office hours, clocks set back": at_times(60, OFFICE, on=WORKDAYS, first=AUTUMN),
    "every 6 h": each(6 * HOUR, 120),
    "every 6 h by the clock on the wall": at_times(60, ["00:00", "06:00", "12:00", "18:00"], first=AUTUMN),
    "every 2 h by the clock on the wall": at_times(40, [f"{hour:02}:00" for hour in range(0, 24, 2)], first=AUTUMN),
    "hourly": each(HOUR, 24 * 20),
    "hourly, up to 10 minutes late": each(HOUR, 24 * 20, jitter=10 * MINUTE),
    "every 5 h": each(5 * HOUR, 100),
    "every 3 days": each(3 * DAY, 40),
    "a little later every day": each(DAY + 5 * MINUTE, 60),
    "much later every day": each(DAY + 40 * MINUTE, 60),
}


@pytest.mark.parametrize("starts", REGULAR.values(), ids=REGULAR)
def test_a_regular_job_is_learned_and_never_reported_as_late(starts):
    assert cadence(starts[-500:]) is not None
    assert alarms(starts) == []


@pytest.mark.parametrize(
    ("kind", "after_last", "expected"),
    [
        ("daily", 24 * HOUR, 25 * HOUR + 10 * MINUTE),
        ("on workdays", 24 * HOUR, 25 * HOUR + 10 * MINUTE),
        ("every 6 h", 6 * HOUR, 7 * HOUR + 10 * MINUTE),
        ("hourly", HOUR, HOUR + 15 * MINUTE),
        ("on Mondays", 7 * DAY, 7 * DAY + 70 * MINUTE),
    ],
)
def test_a_missing_run_is_reported_about_an_hour_or_ten_minutes_after_its_time(kind, after_last, expected):
    starts = REGULAR[kind]
    latest = cadence(starts[-500:]).latest(starts[-1]) - starts[-1]
    assert after_last < latest <= expected


def test_a_job_of_workdays_misses_no_run_at_a_weekend():
    starts = at_times(29, ["06:00"], on=WORKDAYS, zone="UTC")  # from a Friday to a Friday
    learned = cadence(starts)
    assert len(learned.times) == 5
    assert 3 * DAY < learned.latest(starts[-1]) - starts[-1] < 3 * DAY + 70 * MINUTE
    assert learned.longest == pytest.approx(3 * DAY, abs=60)


@pytest.mark.parametrize(
    ("starts", "least", "most"),
    [
        (at_times(60, ["03:00"]), 6, 7),
        (each(HOUR, 400), 6.5, 7),
        (at_times(60, ["06:00"], on=WORKDAYS), 12, 14),
        (at_times(60, ["06:00"], on=[0]), 14, 21),
        (at_times(60, OFFICE, on=WORKDAYS), 12, 14),
    ],
    ids=["daily", "hourly", "workdays", "Mondays", "office"],
)
def test_no_run_is_expected_before_each_weekday_was_seen_once_or_twice_if_they_differ(starts, least, most):
    assert least <= days_until_known(starts) <= most


@pytest.mark.parametrize("starts", [[], [0.0], [0.0, DAY], each(7 * DAY, 3, jitter=0)[:2], each(60, 400)])
def test_nothing_is_learned_from_too_few_runs(starts):
    assert cadence(starts) is None


@pytest.mark.parametrize("a_day", [0.3, 1, 3, 12, 50, 300])
@pytest.mark.parametrize("days", [8, 14, 28])
def test_event_driven_jobs_have_no_cadence(a_day, days):
    found = [cadence(by_chance(a_day, days, seed)[-500:]) for seed in range(12)]
    assert found.count(None) == 12


def test_events_in_office_hours_have_no_cadence():
    dice = random.Random(5)
    starts = [
        day + dice.uniform(0, 8 * HOUR) for day in at_times(40, ["09:00"], on=WORKDAYS, jitter=0) for _ in range(12)
    ]
    assert cadence(sorted(starts)) is None


def test_a_job_keeps_its_cadence_over_a_long_gap():
    before, after = at_times(30, ["03:00"], zone="UTC"), at_times(30, ["03:00"], zone="UTC", first="2024-04-10")
    assert cadence([*before, *after[:8]]) is not None


def test_a_job_that_ran_three_times_a_year_has_no_cadence():
    assert cadence(each(120 * DAY, 4)) is None


DAILY = at_times(60, ["03:00"], zone="UTC")


def test_a_missed_run_is_reported_once_and_does_not_change_the_cadence():
    starts = DAILY[:40] + DAILY[41:]
    assert alarms(starts) == [DAILY[41]]
    assert cadence(starts).times == pytest.approx(cadence(DAILY).times, abs=60)


@pytest.mark.parametrize("hours", [0.5, 2, 6, 13])
def test_one_run_at_an_odd_time_changes_nothing(hours):
    starts = sorted([*DAILY, DAILY[50] + hours * HOUR])
    assert alarms(starts) == []
    assert cadence(starts).times == pytest.approx(cadence(DAILY).times, abs=60)


def test_runs_by_hand_after_failures_change_nothing():
    dice = random.Random(3)
    again = [start + dice.uniform(0.5, 8) * HOUR for start in DAILY if dice.random() < 0.25]
    starts = sorted([*DAILY, *again])
    assert alarms(starts) == []
    assert cadence(starts).times == pytest.approx(cadence(DAILY).times, abs=60)

    hourly = each(HOUR, 24 * 20)
    starts = sorted([*hourly, *(start + dice.uniform(300, 3000) for start in hourly if dice.random() < 0.1)])
    assert alarms(starts) == []
    assert cadence(starts[-500:]).distance == pytest.approx(HOUR, abs=60)


def test_many_runs_at_once_count_as_one_start():
    starts = sorted(start + number for start in DAILY[-25:] for number in range(20))
    assert cadence(starts).times == pytest.approx(cadence(DAILY).times, abs=60)


def test_a_late_run_does_not_shift_the_next_one():
    late = [*DAILY[:-1], DAILY[-1] + 50 * MINUTE]
    assert cadence(late).latest(late[-1]) - cadence(DAILY).latest(DAILY[-1]) < HOUR / 2
    very_late = DAILY[-1] + 20 * HOUR
    assert cadence([*DAILY[:-1], very_late]).latest(very_late) - very_late < 6 * HOUR


@pytest.mark.parametrize(
    ("starts", "most", "known"),
    [
        (DAILY[:30] + at_times(30, ["09:00"], zone="UTC", first="2024-03-31"), 3, 7 * 2),
        (DAILY[:30] + at_times(40, ["03:00"], zone="UTC", first="2024-03-31", on=WORKDAYS), 3, 5),
        (each(HOUR, 400) + each(3 * HOUR, 120, start=1_709_000_000.0 + 402 * HOUR), 4, 0),
    ],
    ids=["another time", "no weekends any more", "seldomer"],
)
def test_a_new_schedule_is_learned_after_a_few_seemingly_late_runs(starts, most, known):
    assert len(alarms(starts)) <= most
    learned = cadence(starts[-500:])
    assert len(learned.times) in (known, known // 2)
    assert 0 < learned.latest(starts[-1]) - starts[-1] < 4 * DAY


def test_an_abandoned_start_time_is_no_longer_expected():
    both = at_times(30, ["03:00", "15:00"], zone="UTC")
    then = at_times(10, ["03:00"], zone="UTC", first="2024-03-31")
    assert len(cadence(both).times) == 14
    assert len(cadence(both + then).times) == 7


def test_a_job_that_stopped_stays_late():
    learned = cadence(DAILY)
    assert learned.latest(DAILY[-1]) < DAILY[-1] + 26 * HOUR


def test_a_busy_job_is_learned_from_the_quarter_hours_in_which_it_ran():
    starts = each(300, 500)
    all_week = each(900, 8 * 96, jitter=200)
    learned = cadence(starts, all_week)
    assert 15 * MINUTE <= learned.latest(0) <= 40 * MINUTE
    nights_off = [moment for moment in all_week if 6 * HOUR < moment % DAY < 22 * HOUR]
    assert cadence(starts, nights_off) is None
    assert cadence(by_chance(300, 1.7, 1), all_week) is None, "by chance, although in every quarter"


def test_every_weekday_can_have_a_cadence():
    assert len(cadence(at_times(30, ["03:00"], on=EVERY_DAY, first=SPRING, zone="UTC")).times) == 7
