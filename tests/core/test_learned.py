import random
from typing import Any

import pytest

from exporter.learning import learned as learning
from exporter.learning.cadence import DAY, HOUR, MINUTE
from exporter.learning.learned import NOTHING
from exporter.model import PastRun, Result
from tests.core.start_times import at_times, by_chance


def learn(runs) -> Any:
    """Return what is learned; each part may be None."""
    return learning.learn(runs)


def duration_budget(durations) -> Any:
    return learning.duration_budget(durations)


def runs(starts, duration=10 * MINUTE, results=(Result.SUCCESS,)):
    return [
        PastRun(start, start + duration, duration, results[number % len(results)])
        for number, start in enumerate(starts)
    ]


DAILY = at_times(30, ["03:00"], zone="UTC")


def test_nothing_is_known_about_a_job_without_a_past():
    assert learn([]) == NOTHING
    assert learn(runs(DAILY[:3])) == NOTHING
    assert learn([PastRun(None, None, None, Result.UNKNOWN)] * 20) == NOTHING


def test_a_daily_job_may_miss_two_successes_and_take_twice_as_long_as_usual():
    learned = learn(runs(DAILY))
    assert learned.cadence is not None
    assert learned.duration_budget == 20 * MINUTE
    assert 2 * DAY + HOUR < learned.freshness < 2 * DAY + 2 * HOUR


def test_the_order_of_the_runs_does_not_matter():
    assert learn(runs(DAILY)) == learn(list(reversed(runs(DAILY))))


def test_a_job_of_workdays_may_be_older_after_a_weekend():
    assert learn(runs(at_times(30, ["03:00"], zone="UTC", on=range(5)))).freshness > 6 * DAY


def test_a_job_that_usually_fails_often_is_given_more_time_between_successes():
    flaky = (Result.SUCCESS, Result.FAILURE, Result.FAILURE, Result.FAILURE)
    assert learn(runs(DAILY, results=flaky)).freshness > 4 * DAY


def test_a_job_that_never_succeeded_has_neither_freshness_nor_budget():
    learned = learn(runs(DAILY, results=(Result.FAILURE,)))
    assert learned.cadence is not None
    assert (learned.freshness, learned.duration_budget) == (None, None)


def test_an_event_driven_job_has_a_budget_but_neither_cadence_nor_freshness():
    learned = learn(runs(by_chance(5, 28, 1)))
    assert (learned.cadence, learned.freshness) == (None, None)
    assert learned.duration_budget == 20 * MINUTE


@pytest.mark.parametrize("count", [0, 1, 9])
def test_nothing_is_learned_from_fewer_than_ten_durations(count):
    assert duration_budget([60.0] * count) is None


def test_short_runs_may_take_five_minutes_more():
    assert duration_budget([2.0] * 10) == 6 * MINUTE


@pytest.mark.parametrize("strange", [0.0, 20 * HOUR])
def test_one_unusual_duration_changes_nothing(strange):
    usual = [600.0] * 30
    assert duration_budget([*usual[:20], strange, *usual[20:]]) == duration_budget(usual) == 20 * MINUTE


def test_a_long_run_that_comes_every_week_is_usual():
    weeks = ([600.0] * 6 + [10_000.0]) * 5
    assert duration_budget(weeks) == 15_000.0


def test_durations_that_grow_slowly_stay_within_the_budget():
    dice = random.Random(1)
    growing = [600 + 30 * day + dice.uniform(0, 120) for day in range(120)]
    over = [day for day in range(10, 120) if growing[day] > duration_budget(growing[:day])]
    assert over == []


def test_durations_that_jump_are_usual_after_a_few_runs():
    jumped = [600.0] * 40 + [3000.0] * 10
    over = [day for day in range(40, 50) if jumped[day] > duration_budget(jumped[:day])]
    assert over == [40, 41, 42]
