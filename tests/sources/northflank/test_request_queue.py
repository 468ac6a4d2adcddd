from datetime import UTC, datetime

import pytest

from exporter.sources.northflank.api import JobSchedule
from exporter.sources.northflank.request_queue import (
    FIRST_OVERDUE,
    PollTier,
    ScheduledRequest,
    has_tick,
    is_due,
    is_job_due,
    ordered,
    overdue_ratio,
    seconds_per_round,
    spacing,
    tier_of,
)

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NOTHING = JobSchedule()


def activity(*, is_busy=False, enabled=True, schedule=NOTHING, last_start=None):
    return {"is_busy": is_busy, "enabled": enabled, "schedule": schedule, "last_start": last_start}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (activity(is_busy=True), PollTier.FAST),
        (activity(is_busy=True, enabled=False), PollTier.FAST),
        (activity(enabled=False, last_start=NOON - MINUTE), PollTier.SLOW),
        (activity(enabled=None, last_start=NOON - HOUR), PollTier.NORMAL),
        (activity(enabled=None, last_start=NOON - 2 * DAY), PollTier.SLOW),
        (activity(enabled=None), PollTier.SLOW),
        (activity(schedule=JobSchedule("0 12 * * *")), PollTier.NORMAL),
        (activity(schedule=JobSchedule("1 12 * * *")), PollTier.NORMAL),
        (activity(schedule=JobSchedule("55 11 * * *")), PollTier.NORMAL),
        (activity(schedule=JobSchedule("30 11 * * *")), PollTier.SLOW),
        (activity(schedule=JobSchedule("0 12 * * *", "Europe/Berlin")), PollTier.SLOW),
        (activity(schedule=JobSchedule("0 14 * * *", "Europe/Berlin")), PollTier.NORMAL),
        (activity(schedule=JobSchedule("30 11 * * *"), last_start=NOON - 5 * MINUTE), PollTier.NORMAL),
        (activity(schedule=JobSchedule("every day"), last_start=NOON - 2 * HOUR), PollTier.NORMAL),
    ],
)
def test_active_jobs_are_fast_due_jobs_are_normal_and_others_are_slow(what, expected):
    assert tier_of(NOON, MINUTE, **what) is expected


@pytest.mark.parametrize("schedule", [JobSchedule("x"), JobSchedule(""), JobSchedule("0 3 * * *", "Mars/Olympus")])
def test_an_unparsable_schedule_is_ignored(schedule):
    assert has_tick(schedule, NOON, NOON + DAY) is None


def test_a_schedule_that_never_fires_has_no_next_time():
    assert has_tick(JobSchedule("0 0 30 2 *"), NOON, NOON + DAY) in (False, None)


@pytest.mark.parametrize(
    ("interval", "fast", "normal", "slow"),
    [(MINUTE, 60, 180, 600), (1.0, 1, 3, 10), (300.0, 300, 300, 600), (HOUR, HOUR, HOUR, HOUR)],
)
def test_tiers_skip_no_polls_if_polls_are_rare(interval, fast, normal, slow):
    assert [spacing(each, interval) for each in PollTier] == [fast, normal, slow]


def test_a_job_is_due_when_the_next_poll_would_be_too_late():
    assert is_job_due(None, NOON, PollTier.SLOW, MINUTE)
    assert is_job_due(NOON - 540, NOON, PollTier.SLOW, MINUTE)
    assert not is_job_due(NOON - 539, NOON, PollTier.SLOW, MINUTE)
    assert is_job_due(NOON, NOON, PollTier.FAST, MINUTE)


def test_a_time_from_a_wrong_clock_delays_nothing():
    assert is_job_due(NOON + HOUR, NOON, PollTier.SLOW, 60)
    assert overdue_ratio(NOON + HOUR, NOON, NOON, PollTier.SLOW, 60) == FIRST_OVERDUE
    assert [is_due(NOON + ahead, NOON, 600) for ahead in (-1, 0, 1, 600, 601)] == [True, True, False, False, True]


def request(part, overdue=1.0, **fields) -> ScheduledRequest:
    return ScheduledRequest(part=part, send=lambda _: (), overdue=overdue, **fields)


def parts(*requests):
    return [each.part for each in ordered(requests)]


def test_a_retry_comes_after_all_others():
    assert parts(request("retry", due=False, retry=True), request("idle", 0.1), request("not due", due=False)) == [
        "idle",
        "retry",
    ]


def test_the_overdue_ratio_compares_jobs_of_all_tiers():
    assert overdue_ratio(NOON - 300, NOON, NOON, PollTier.SLOW, MINUTE) == 0.5
    assert overdue_ratio(NOON - 360, NOON, NOON, PollTier.NORMAL, MINUTE) == 2.0


def test_jobs_with_open_runs_count_as_overdue_twice_as_early():
    assert overdue_ratio(NOON - 60, NOON, NOON, PollTier.FAST, MINUTE) == 2.0


def test_a_job_that_was_never_read_becomes_more_overdue_the_longer_it_is_listed():
    waits = [overdue_ratio(None, NOON - waited, NOON, PollTier.SLOW, MINUTE) for waited in (0, 180, 360)]
    assert waits == [2.0, 3.0, 4.0]


def test_the_most_overdue_request_comes_first_after_interrupted_ones():
    requests = [request("idle", 0.9), request("late", 3.0), request("open", 2.0), request("interrupted", float("inf"))]
    assert parts(*requests) == ["interrupted", "late", "open", "idle"]


@pytest.mark.parametrize(
    ("tiers", "seconds"),
    [
        ([], 0),
        ([PollTier.FAST], 60),
        ([PollTier.SLOW] * 10, 600),
        ([PollTier.SLOW] * 240, 1200),
        ([PollTier.NORMAL] * 100, 500),
        ([PollTier.FAST] * 10 + [PollTier.SLOW] * 90, 950),
        ([PollTier.FAST] * 95 + [PollTier.SLOW] * 10, 4800),
        ([PollTier.FAST] * 120, 600),
    ],
)
def test_a_round_takes_as_long_as_a_budget_of_12_requests_per_poll_needs(tiers, seconds):
    assert seconds_per_round(tiers, MINUTE, 15) == pytest.approx(seconds)
