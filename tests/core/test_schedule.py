from datetime import UTC, datetime, timedelta

import pytest

from exporter.polling.schedule import Every

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_the_first_firing_is_an_interval_away():
    assert Every(60).get_next_fire_time(None, NOON) == NOON + timedelta(minutes=1)


@pytest.mark.parametrize(("late", "following"), [(0, 60), (59.9, 60), (60, 120), (150, 180)])
def test_firings_keep_their_rhythm_however_late_one_is(late, following):
    assert Every(60).get_next_fire_time(NOON, NOON + timedelta(seconds=late)) == NOON + timedelta(seconds=following)


def test_a_weeks_jump_of_the_clock_is_one_firing_however_short_the_interval():
    assert Every(1).get_next_fire_time(NOON, NOON + timedelta(days=7)) == NOON + timedelta(days=7, seconds=1)


def test_a_clock_that_fell_back_changes_nothing():
    assert Every(60).get_next_fire_time(NOON, NOON - timedelta(days=1)) == NOON + timedelta(minutes=1)
