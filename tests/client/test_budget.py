import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.client.budget import LONGEST_BLOCK, Budget, Pace, Stopped
from exporter.errors import RateLimitedError

EVER = math.inf


def make_budget(moved, requests_per_minute=60.0):
    return Budget(requests_per_minute, monotonic=moved.monotonic, sleep=moved.sleep)


def densest(instants, period):
    """The most requests in any stretch of this length."""
    return max(sum(first <= other < first + period - 1e-6 for other in instants) for first in instants)


@given(
    st.floats(min_value=0.01, max_value=500),
    st.lists(st.floats(min_value=0, max_value=90), min_size=1, max_size=60),
)
def test_no_stretch_of_the_period_ever_holds_more_requests_than_the_budget(requests_per_minute, gaps):
    pace = Pace(requests_per_minute)
    now, taken = 0.0, []
    for gap in gaps:
        now = pace.earliest(now + gap)
        pace.take(now)
        taken.append(now)
    assert densest(taken, pace.period) <= max(1, math.floor(requests_per_minute))


def test_a_budget_of_sixty_lets_sixty_go_at_once_and_then_waits_for_the_minute_to_pass(moved):
    budget = make_budget(moved)
    assert [budget.acquire(EVER) for _ in range(60)] == [0.0] * 60
    assert budget.acquire(EVER) == 60.0


def test_half_a_request_per_minute_is_one_in_two_minutes(moved):
    budget = make_budget(moved, 0.5)
    budget.acquire(EVER)
    assert budget.acquire(EVER) == 120.0
    assert budget.period == 120.0


def test_a_wait_beyond_the_deadline_is_refused_at_once_and_takes_nothing(moved):
    budget = make_budget(moved, 1.0)
    budget.acquire(EVER)
    with pytest.raises(RateLimitedError):
        budget.acquire(moved.now + 59.0)
    assert moved.slept == []
    assert budget.acquire(moved.now + 60.0) == 60.0


def test_a_sleep_that_ends_early_is_followed_by_another(moved):
    def short_sleep(seconds):
        moved.sleep(min(seconds, 25.0))

    budget = Budget(1.0, monotonic=moved.monotonic, sleep=short_sleep)
    budget.acquire(EVER)
    assert budget.acquire(EVER) == 60.0
    assert moved.slept == [25.0, 25.0, 10.0]


def test_a_shutdown_cuts_the_wait_short(moved):
    budget = make_budget(moved, 1.0)
    budget.acquire(EVER)
    moved.stops = True
    with pytest.raises(Stopped):
        budget.acquire(EVER)


def test_a_block_by_the_server_holds_for_everybody_and_a_shorter_one_does_not_lift_it(moved):
    budget = make_budget(moved)
    budget.blocked_until(30.0)
    budget.blocked_until(5.0)
    assert budget.wait() == 30.0
    assert budget.acquire(EVER) == 30.0


@pytest.mark.parametrize("seconds", [1e12, LONGEST_BLOCK + 1])
def test_no_server_can_block_for_longer_than_an_hour(moved, seconds):
    budget = make_budget(moved)
    budget.blocked_until(seconds)
    assert budget.wait() == LONGEST_BLOCK


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -5.0, 0.0])
def test_a_block_that_is_no_time_is_ignored(moved, seconds):
    budget = make_budget(moved)
    budget.blocked_until(seconds)
    assert budget.wait() == 0.0


def test_what_remains_less_a_tenth_in_reserve_lasts_until_the_reset(moved):
    budget = make_budget(moved, 600.0)
    budget.acquire(EVER)
    budget.observe(1000, 200, 1000.0)
    assert [budget.acquire(EVER) for _ in range(3)] == [10.0, 10.0, 10.0]


def test_spacing_ends_with_the_reset(moved):
    budget = make_budget(moved, 600.0)
    budget.acquire(EVER)
    budget.observe(10, 2, 30.0)
    assert budget.acquire(EVER) == 30.0
    assert budget.acquire(EVER) == 0.0


def test_with_only_the_reserve_left_nothing_goes_before_the_reset(moved):
    budget = make_budget(moved, 600.0)
    budget.observe(1000, 100, 300.0)
    assert budget.wait() == 300.0


@pytest.mark.parametrize("said", [(math.nan, 1, 1), (10, -1, 1), (10, 5, math.inf), (10, 5, -1)])
def test_nonsense_about_limits_is_ignored(moved, said):
    budget = make_budget(moved, 600.0)
    budget.observe(*said)
    assert budget.wait() == 0.0


def test_threads_together_keep_the_budget_of_one():
    taken = []
    budget = Budget(6000.0, monotonic=time.monotonic, sleep=time.sleep)
    pace = budget._pace
    pace.size, pace.period, pace._taken = 5, 0.05, type(pace._taken)(maxlen=5)

    def ask():
        for _ in range(4):
            budget.acquire(EVER)
            taken.append(pace._taken[-1])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(taken) == 32
    assert max(taken) - min(taken) >= (32 / 5 - 1) * 0.05 - 1e-6
