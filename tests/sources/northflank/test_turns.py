from datetime import UTC, datetime

import pytest

from exporter.sources.turns import (
    Pulse,
    Schedule,
    Tier,
    Turn,
    has_come,
    has_tick,
    interleaved,
    is_due,
    lateness,
    ordered,
    round_seconds,
    spacing,
    tier,
)

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NOTHING = Schedule()


def pulse(*, is_open=False, enabled=True, schedule=NOTHING, last_start=None) -> Pulse:
    return Pulse(open=is_open, enabled=enabled, schedule=schedule, last_start=last_start)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (pulse(is_open=True), Tier.FAST),
        (pulse(is_open=True, enabled=False), Tier.FAST),
        (pulse(enabled=False, last_start=NOON - MINUTE), Tier.SLOW),
        (pulse(enabled=None, last_start=NOON - HOUR), Tier.NORMAL),
        (pulse(enabled=None, last_start=NOON - 2 * DAY), Tier.SLOW),
        (pulse(enabled=None), Tier.SLOW),
        (pulse(schedule=Schedule("0 12 * * *")), Tier.NORMAL),
        (pulse(schedule=Schedule("1 12 * * *")), Tier.NORMAL),
        (pulse(schedule=Schedule("55 11 * * *")), Tier.NORMAL),
        (pulse(schedule=Schedule("30 11 * * *")), Tier.SLOW),
        (pulse(schedule=Schedule("0 12 * * *", "Europe/Berlin")), Tier.SLOW),
        (pulse(schedule=Schedule("0 14 * * *", "Europe/Berlin")), Tier.NORMAL),
        (pulse(schedule=Schedule("30 11 * * *"), last_start=NOON - 5 * MINUTE), Tier.NORMAL),
        (pulse(schedule=Schedule("every day"), last_start=NOON - 2 * HOUR), Tier.NORMAL),
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
    assert [spacing(each, interval) for each in Tier] == [fast, normal, slow]


def test_a_job_is_due_when_the_next_poll_would_be_too_late():
    assert is_due(None, NOON, Tier.SLOW, MINUTE)
    assert is_due(NOON - 540, NOON, Tier.SLOW, MINUTE)
    assert not is_due(NOON - 539, NOON, Tier.SLOW, MINUTE)
    assert is_due(NOON, NOON, Tier.FAST, MINUTE)


def test_an_instant_that_a_wrong_clock_told_delays_nothing():
    assert is_due(NOON + HOUR, NOON, Tier.SLOW, 60)
    assert lateness(NOON + HOUR, NOON, Tier.SLOW, 60) == float("inf")
    assert [has_come(NOON + ahead, NOON, 600) for ahead in (-1, 0, 1, 600, 601)] == [True, True, False, False, True]


def test_what_is_asked_only_because_it_failed_comes_after_all_others():
    turns = [turn("again", Tier.FAST, due=False, again=True), turn("idle", late=0.1), turn("not due", due=False)]
    assert list(ordered(turns)) == ["idle", "again"]


def test_lateness_compares_jobs_of_all_tiers():
    assert lateness(NOON - 300, NOON, Tier.SLOW, MINUTE) == 0.5
    assert lateness(NOON - 360, NOON, Tier.NORMAL, MINUTE) == 2.0
    assert lateness(None, NOON, Tier.SLOW, MINUTE) == float("inf")


def test_the_others_get_their_share_beside_what_is_open():
    assert "".join(interleaved("ABCDEFG", "123", 3)) == "ABC1DEF2G3"
    assert "".join(interleaved("ABCDEF", "1", 2)) == "AB1CDEF"
    assert "".join(interleaved("", "12", 3)) == "12"


def turn(ask, what=Tier.NORMAL, late=1.0, **fields) -> Turn:
    return Turn(ask=ask, tier=what, late=late, **fields)


def test_the_most_urgent_comes_first():
    turns = [
        turn("idle", Tier.SLOW, 0.9),
        turn("resting", due=False),
        turn("late", late=3.0),
        turn("schedule", None, 1.5),
        turn("open", Tier.FAST, 1.0),
        turn("open for long", Tier.FAST, 2.0),
        turn("half read", Tier.SLOW, 0.1, begun=True),
    ]
    assert list(ordered(turns)) == ["half read", "open for long", "open", "late", "schedule", "idle"]


def test_while_some_jobs_were_never_read_every_second_turn_is_theirs():
    turns = [turn(letter, Tier.FAST) for letter in "ABC"] + [turn(n, late=float("inf")) for n in "12"]
    assert "".join(ordered(turns)) == "A1B2C"


@pytest.mark.parametrize(
    ("tiers", "seconds"),
    [
        ([], 0),
        ([Tier.FAST], 60),
        ([Tier.SLOW] * 10, 600),
        ([Tier.SLOW] * 240, 1200),
        ([Tier.NORMAL] * 100, 500),
        ([Tier.FAST] * 10 + [Tier.SLOW] * 90, 1800),
        ([Tier.FAST] * 90 + [Tier.SLOW] * 10, 600),
        ([Tier.FAST] * 120, 600),
    ],
)
def test_a_round_takes_as_long_as_the_budget_of_12_a_poll_needs(tiers, seconds):
    assert round_seconds(tiers, MINUTE, 15) == pytest.approx(seconds)
