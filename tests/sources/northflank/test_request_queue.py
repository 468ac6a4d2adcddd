from datetime import UTC, datetime

import pytest

from exporter.sources.northflank.request_queue import (
    JobActivity,
    PollTier,
    Schedule,
    ScheduledRequest,
    has_tick,
    interleaved,
    is_due,
    ordered,
    overdue_ratio,
    round_seconds,
    should_ask,
    spacing,
    tier,
)

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NOTHING = Schedule()


def activity(*, is_open=False, enabled=True, schedule=NOTHING, last_start=None) -> JobActivity:
    return JobActivity(open=is_open, enabled=enabled, schedule=schedule, last_start=last_start)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (activity(is_open=True), PollTier.FAST),
        (activity(is_open=True, enabled=False), PollTier.FAST),
        (activity(enabled=False, last_start=NOON - MINUTE), PollTier.SLOW),
        (activity(enabled=None, last_start=NOON - HOUR), PollTier.NORMAL),
        (activity(enabled=None, last_start=NOON - 2 * DAY), PollTier.SLOW),
        (activity(enabled=None), PollTier.SLOW),
        (activity(schedule=Schedule("0 12 * * *")), PollTier.NORMAL),
        (activity(schedule=Schedule("1 12 * * *")), PollTier.NORMAL),
        (activity(schedule=Schedule("55 11 * * *")), PollTier.NORMAL),
        (activity(schedule=Schedule("30 11 * * *")), PollTier.SLOW),
        (activity(schedule=Schedule("0 12 * * *", "Europe/Berlin")), PollTier.SLOW),
        (activity(schedule=Schedule("0 14 * * *", "Europe/Berlin")), PollTier.NORMAL),
        (activity(schedule=Schedule("30 11 * * *"), last_start=NOON - 5 * MINUTE), PollTier.NORMAL),
        (activity(schedule=Schedule("every day"), last_start=NOON - 2 * HOUR), PollTier.NORMAL),
    ],
)
def test_what_is_open_is_fast_what_is_near_its_time_is_normal_and_the_rest_is_slow(what, expected):
    assert tier(what, NOON, MINUTE) is expected


@pytest.mark.parametrize("schedule", [Schedule("x"), Schedule(""), Schedule("0 3 * * *", "Mars/Olympus")])
def test_a_schedule_that_is_not_understood_says_nothing(schedule):
    assert has_tick(schedule, NOON, NOON + DAY) is None


def test_a_schedule_that_never_comes_has_no_tick():
    assert has_tick(Schedule("0 0 30 2 *"), NOON, NOON + DAY) in (False, None)


@pytest.mark.parametrize(
    ("interval", "fast", "normal", "slow"),
    [(MINUTE, 60, 180, 600), (1.0, 1, 3, 10), (300.0, 300, 300, 600), (HOUR, HOUR, HOUR, HOUR)],
)
def test_tiers_skip_no_polls_where_those_are_rare(interval, fast, normal, slow):
    assert [spacing(each, interval) for each in PollTier] == [fast, normal, slow]


def test_a_job_is_due_when_the_next_poll_would_be_too_late():
    assert should_ask(None, NOON, PollTier.SLOW, MINUTE)
    assert should_ask(NOON - 540, NOON, PollTier.SLOW, MINUTE)
    assert not should_ask(NOON - 539, NOON, PollTier.SLOW, MINUTE)
    assert should_ask(NOON, NOON, PollTier.FAST, MINUTE)


def test_an_instant_that_a_wrong_clock_told_delays_nothing():
    assert should_ask(NOON + HOUR, NOON, PollTier.SLOW, 60)
    assert overdue_ratio(NOON + HOUR, NOON, PollTier.SLOW, 60) == float("inf")
    assert [is_due(NOON + ahead, NOON, 600) for ahead in (-1, 0, 1, 600, 601)] == [True, True, False, False, True]


def test_what_is_asked_only_because_it_failed_comes_after_all_others():
    turns = [turn("again", PollTier.FAST, due=False, again=True), turn("idle", late=0.1), turn("not due", due=False)]
    assert list(ordered(turns)) == ["idle", "again"]


def test_lateness_compares_jobs_of_all_tiers():
    assert overdue_ratio(NOON - 300, NOON, PollTier.SLOW, MINUTE) == 0.5
    assert overdue_ratio(NOON - 360, NOON, PollTier.NORMAL, MINUTE) == 2.0
    assert overdue_ratio(None, NOON, PollTier.SLOW, MINUTE) == float("inf")


def test_the_others_get_their_share_beside_what_is_open():
    assert "".join(interleaved("ABCDEFG", "123", 3)) == "ABC1DEF2G3"
    assert "".join(interleaved("ABCDEF", "1", 2)) == "AB1CDEF"
    assert "".join(interleaved("", "12", 3)) == "12"


def turn(ask, what=PollTier.NORMAL, late=1.0, **fields) -> ScheduledRequest:
    return ScheduledRequest(ask=ask, tier=what, late=late, **fields)


def test_the_most_urgent_comes_first():
    turns = [
        turn("idle", PollTier.SLOW, 0.9),
        turn("resting", due=False),
        turn("late", late=3.0),
        turn("schedule", None, 1.5),
        turn("open", PollTier.FAST, 1.0),
        turn("open for long", PollTier.FAST, 2.0),
        turn("half read", PollTier.SLOW, 0.1, begun=True),
    ]
    assert list(ordered(turns)) == ["half read", "open for long", "open", "late", "schedule", "idle"]


def test_while_some_jobs_were_never_read_every_second_turn_is_theirs():
    turns = [turn(letter, PollTier.FAST) for letter in "ABC"] + [turn(n, late=float("inf")) for n in "12"]
    assert "".join(ordered(turns)) == "A1B2C"


@pytest.mark.parametrize(
    ("tiers", "seconds"),
    [
        ([], 0),
        ([PollTier.FAST], 60),
        ([PollTier.SLOW] * 10, 600),
        ([PollTier.SLOW] * 240, 1200),
        ([PollTier.NORMAL] * 100, 500),
        ([PollTier.FAST] * 10 + [PollTier.SLOW] * 90, 1800),
        ([PollTier.FAST] * 90 + [PollTier.SLOW] * 10, 600),
        ([PollTier.FAST] * 120, 600),
    ],
)
def test_a_round_takes_as_long_as_the_budget_of_12_a_poll_needs(tiers, seconds):
    assert round_seconds(tiers, MINUTE, 15) == pytest.approx(seconds)
