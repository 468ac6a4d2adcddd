import contextlib
import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.client.budget import MAX_BLOCK, MAX_SLEEP, PROBE_INTERVAL, Budget, Pace, Stopped, for_page
from exporter.errors import RateLimitedError

EVER = math.inf


def make_budget(moved, requests_per_minute=60.0):
    return Budget(requests_per_minute, monotonic=moved.monotonic, sleep=moved.sleep)


def densest(timestamps, period):
    """Return the maximum number of requests in any period of this length."""
    return max(sum(first <= other < first + period - 1e-6 for other in timestamps) for first in timestamps)


@given(
    st.floats(min_value=0.01, max_value=500),
    st.lists(st.floats(min_value=0, max_value=90), min_size=1, max_size=60),
)
def test_no_period_ever_has_more_requests_than_the_budget(requests_per_minute, gaps):
    pace = Pace(requests_per_minute)
    now, taken = 0.0, []
    for gap in gaps:
        now = pace.earliest(now + gap)
        pace.take(now)
        taken.append(now)
    assert densest(taken, pace.period) <= max(1, math.floor(requests_per_minute))


def test_a_budget_of_60_sends_60_at_once_and_then_waits_for_the_minute_to_pass(moved):
    budget = make_budget(moved)
    assert [budget.acquire(EVER) for _ in range(60)] == [0.0] * 60
    assert budget.acquire(EVER) == 60.0


def test_requests_of_another_process_use_the_budget_until_they_are_a_minute_old(moved):
    first, second = make_budget(moved, 3.0), make_budget(moved, 3.0)
    for _ in range(3):
        first.acquire(EVER)
    moved.sleep(20.0)
    second.acquire(EVER)
    assert second.wait() == 0.0
    second.add_requests(first.request_ages())
    assert second.wait() == 40.0
    moved.sleep(40.0)
    assert (first.request_ages(), second.wait()) == ([], 0.0)


def test_half_a_request_per_minute_is_one_every_two_minutes(moved):
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
        moved.sleep(min(seconds, 2.5))

    budget = Budget(1.0, monotonic=moved.monotonic, sleep=short_sleep)
    budget.acquire(EVER)
    assert budget.acquire(EVER) == 60.0
    assert moved.slept == [2.5] * 24


def test_a_shutdown_cuts_the_wait_short(moved):
    budget = make_budget(moved, 1.0)
    budget.acquire(EVER)
    moved.stops = True
    with pytest.raises(Stopped):
        budget.acquire(EVER)


def test_a_poll_that_must_stop_sends_no_request_even_if_it_need_not_wait_and_a_person_may(moved):
    budget = Budget(60.0, monotonic=moved.monotonic, sleep=moved.sleep, stopping=lambda: True)
    with pytest.raises(Stopped):
        budget.acquire(10.0)
    with for_page():
        assert budget.acquire(10.0) == 0.0


def test_a_block_by_the_server_applies_to_all_threads_and_a_shorter_one_does_not_lift_it(moved):
    budget = make_budget(moved)
    budget.block(30.0)
    budget.block(5.0)
    assert budget.wait() == 30.0
    assert budget.acquire(EVER) == 30.0


@pytest.mark.parametrize("seconds", [1e12, MAX_BLOCK + 1])
def test_no_server_can_block_for_longer_than_an_hour(moved, seconds):
    budget = make_budget(moved)
    budget.block(seconds)
    while probes := budget.wait():
        budget.acquire(EVER)
        assert probes <= PROBE_INTERVAL
    assert moved.now == pytest.approx(1000.0 + MAX_BLOCK)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -5.0, 0.0])
def test_a_block_that_is_not_a_valid_time_is_ignored(moved, seconds):
    budget = make_budget(moved)
    budget.block(seconds)
    assert budget.wait() == 0.0


def test_remaining_requests_minus_a_reserve_of_a_tenth_are_spread_until_the_reset(moved):
    budget = make_budget(moved, 600.0)
    budget.acquire(EVER)
    budget.spread(1000, 200, 1000.0)
    assert [budget.acquire(EVER) for _ in range(3)] == [10.0, 10.0, 10.0]


def test_spacing_ends_with_the_reset(moved):
    budget = make_budget(moved, 600.0)
    budget.acquire(EVER)
    budget.spread(10, 2, 30.0)
    assert budget.acquire(EVER) == 30.0
    assert budget.acquire(EVER) == 0.0


def test_with_only_the_reserve_left_nothing_is_sent_before_the_reset(moved):
    budget = make_budget(moved, 600.0)
    budget.spread(1000, 100, 300.0)
    assert budget.wait() == 300.0


@pytest.mark.parametrize("said", [(math.nan, 1, 1), (10, -1, 1), (10, 5, math.inf), (10, 5, -1)])
def test_nonsense_about_limits_is_ignored(moved, said):
    budget = make_budget(moved, 600.0)
    budget.spread(*said)
    assert budget.wait() == 0.0


def test_threads_share_one_budget():
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


def test_a_recovered_server_gets_requests_long_before_its_retry_after(moved):
    budget = make_budget(moved)
    budget.block(MAX_BLOCK)
    assert budget.acquire(EVER) == PROBE_INTERVAL
    assert budget.wait() == PROBE_INTERVAL
    budget.succeeded(moved.now)
    assert budget.wait() == 0.0


def test_a_server_that_still_refuses_gets_one_request_in_five_minutes(moved):
    budget = make_budget(moved)
    budget.block(MAX_BLOCK)
    budget.acquire(EVER)
    budget.block(MAX_BLOCK)
    assert budget.acquire(EVER) == PROBE_INTERVAL


def test_a_success_of_a_request_sent_before_the_block_does_not_end_it(moved):
    budget = make_budget(moved)
    sent = moved.now
    moved.sleep(1.0)
    budget.block(100.0)
    budget.succeeded(sent)
    assert budget.wait() == 100.0


def test_the_wait_is_reported_while_it_lasts(moved):
    budget, reported = make_budget(moved, 1.0), []
    budget.acquire(EVER)
    assert budget.acquire(EVER, reported.append) == 60.0
    assert reported == [MAX_SLEEP] * 12


def as_people(budget, count, patience=0.0):
    """Return how many of these requests for a page are allowed."""
    granted = 0
    for _ in range(count):
        with for_page(), contextlib.suppress(RateLimitedError):
            budget.acquire(budget._monotonic() + patience)
            granted += 1
    return granted


def test_a_thousand_users_get_a_quarter_of_the_budget_and_a_poll_waits_for_none_of_them(moved):
    budget = make_budget(moved)
    assert as_people(budget, 1000) == 15
    assert budget.acquire(EVER) == 0.0
    moved.now += 30
    assert as_people(budget, 1000) == 0
    moved.now += 31
    assert as_people(budget, 1000) == 15


@pytest.mark.parametrize(("requests_per_minute", "part"), [(1, 1), (3, 1), (8, 2), (0.5, 1)])
def test_users_get_at_least_one_request(moved, requests_per_minute, part):
    assert as_people(make_budget(moved, requests_per_minute), 10) == part


def test_users_get_a_quarter_of_the_requests_that_a_server_spaces(moved):
    budget = make_budget(moved, 600.0)
    budget.spread(1000, 200, 1000.0)
    granted = 0
    for _ in range(400):
        granted += as_people(budget, 1)
        moved.now += 1
    assert granted == 10


def test_while_a_poll_waits_no_user_gets_a_request_and_the_poll_waits_one_spacing(moved):
    granted = []

    def sleep(seconds):
        granted.append(as_people(budget, 1000, patience=3.0))
        moved.sleep(seconds)

    budget = Budget(6.0, monotonic=moved.monotonic, sleep=sleep)
    budget.spread(100, 40, 600.0)
    as_people(budget, 1)
    assert budget.acquire(EVER) == 20.0
    assert set(granted) == {0}


def test_no_user_takes_the_request_that_a_poll_has_waited_for(moved):
    def sleep(seconds):
        moved.sleep(seconds)
        assert as_people(budget, 1) == 0

    budget = Budget(1.0, monotonic=moved.monotonic, sleep=sleep)
    budget.acquire(EVER)
    assert budget.acquire(EVER) == 60.0


def test_a_refused_user_gets_the_reason(moved):
    budget = make_budget(moved)
    as_people(budget, 15)
    with for_page(), pytest.raises(RateLimitedError, match="pages have used their share of the request budget"):
        budget.acquire(moved.now + 3)


def test_a_users_request_never_probes_a_blocked_server(moved):
    budget = make_budget(moved)
    budget.block(MAX_BLOCK)
    moved.now += PROBE_INTERVAL
    assert as_people(budget, 1) == 0
    assert budget.wait() == 0.0


def test_a_budget_that_replaces_another_keeps_its_sent_requests_and_its_block(moved):
    before = make_budget(moved, 10.0)
    as_people(before, 2)
    for _ in range(8):
        before.acquire(EVER)
    after = Budget(20.0, monotonic=moved.monotonic, sleep=moved.sleep, before=before)
    assert as_people(after, 10) == 3
    for _ in range(7):
        assert after.acquire(EVER) == 0.0
    assert after.wait() == 60.0
    before.block(100.0)
    assert Budget(20.0, monotonic=moved.monotonic, sleep=moved.sleep, before=before).wait() == 100.0
