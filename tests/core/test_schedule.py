import threading
import time
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from exporter.polling.schedule import Every, PollSchedule, ScheduledSource

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_the_first_poll_of_a_schedule_is_one_interval_away():
    assert Every(60).get_next_fire_time(None, NOON) == NOON + timedelta(minutes=1)


@pytest.mark.parametrize(("late", "following"), [(0, 60), (59.9, 60), (60, 120), (150, 180)])
def test_polls_keep_their_rhythm_no_matter_how_late_one_is(late, following):
    assert Every(60).get_next_fire_time(NOON, NOON + timedelta(seconds=late)) == NOON + timedelta(seconds=following)


def test_a_clock_jump_of_a_week_causes_one_poll_no_matter_how_short_the_interval():
    assert Every(1).get_next_fire_time(NOON, NOON + timedelta(days=7)) == NOON + timedelta(days=7, seconds=1)


def test_a_clock_set_back_changes_nothing():
    assert Every(60).get_next_fire_time(NOON, NOON - timedelta(days=1)) == NOON + timedelta(minutes=1)


class Poller:
    """Records its polls."""

    def __init__(self, failures=0, interval=3600.0):
        self.failures = failures
        self.interval = interval
        self.missed = SimpleQueue()
        self.polls = SimpleQueue()
        self.go_on = threading.Event()
        self.go_on.set()

    def poll(self):
        self.polls.put("poll")
        self.go_on.wait(10)

    def wait(self):
        return self.interval

    def skip(self):
        self.missed.put("missed")

    def is_polled(self, seconds=10.0):
        try:
            return self.polls.get(timeout=seconds) == "poll"
        except Empty:
            return False


def polled(name, failures=0, interval=3600.0):
    poller: Any = Poller(failures, interval)
    return ScheduledSource(name, poller, interval)


@pytest.fixture
def schedule():
    schedule = PollSchedule(time.time, time.monotonic)
    yield schedule
    schedule.stop(1)


def test_an_unchanged_source_keeps_its_next_poll_and_a_new_one_is_polled_at_once(schedule):
    stays, comes = polled("stays"), polled("comes")
    schedule.add([stays])
    schedule.start()
    assert stays.poller.is_polled()
    assert schedule.keep([stays, comes], 1)
    schedule.add([stays, comes])
    assert comes.poller.is_polled()
    assert not stays.poller.is_polled(0.1)


def test_a_source_whose_last_poll_failed_is_polled_at_once(schedule):
    failing = polled("failing", failures=3)
    schedule.add([failing])
    schedule.start()
    assert failing.poller.is_polled()
    with failing.idle:
        pass
    schedule.add([failing])
    assert failing.poller.is_polled()


def test_a_source_does_not_wait_for_the_last_poll_of_its_predecessor(schedule):
    before, after = polled("name"), polled("name")
    before.poller.go_on.clear()
    schedule.add([before])
    schedule.start()
    assert before.poller.is_polled()
    assert not schedule.keep([after], 0.05)
    schedule.add([after])
    assert after.poller.is_polled()
    before.poller.go_on.set()


def test_a_removed_source_is_no_longer_polled(schedule):
    goes, stays = polled("goes", failures=1), polled("stays", failures=1)
    schedule.add([goes, stays])
    assert schedule.keep([stays], 1)
    schedule.start()
    assert stays.poller.is_polled()
    assert not goes.poller.is_polled(0.1)


def test_polls_that_come_due_while_one_runs_are_reported_to_its_poller(schedule):
    source = polled("long", interval=0.05)
    source.poller.go_on.clear()
    schedule.add([source])
    schedule.start()
    for _ in range(5):
        source.poller.missed.get(timeout=10)
    source.poller.go_on.set()


def test_stopping_ends_although_a_replica_still_takes_sources(schedule):
    class TakesAnotherSource:
        """A lock of a poll, during whose wait another source is taken."""

        def acquire(self, timeout):
            schedule.add([polled("another")])
            return timeout >= 0

        def release(self):
            pass

    source = polled("one")
    schedule.add([source])
    source.idle = TakesAnotherSource()
    assert schedule.stop(1)
