"""Expectations learned from the runs in the state, as the page shows them."""

import threading

import pytest

from exporter.ledger.housekeeping import prune
from exporter.ledger.learning import MAX_LEARN_INTERVAL, MIN_LEARN_INTERVAL
from exporter.model import Job, Result, State
from tests.core.ledger_harness import BASELINE, ended, run
from tests.core.page_harness import PageHarness
from tests.core.start_times import at_times

DAY, HOUR = 86400.0, 3600.0
NEXT = "jobrun_job_next_run_expected_timestamp_seconds"
FRESHNESS = "jobrun_job_freshness_objective_seconds"
BUDGET = "jobrun_job_duration_budget_seconds"
DAILY = [start - 1_709_000_000.0 + BASELINE for start in at_times(26, ["03:00"], zone="UTC")]
HOURLY = [BASELINE - 8 * DAY + number * HOUR for number in range(8 * 24)]


@pytest.fixture
def shown(tmp_path):
    harness = PageHarness(tmp_path / "state.db")
    yield harness
    harness.close()


def past(starts):
    return [ended(f"r{number}", end=start + 600, length=600) for number, start in enumerate(starts)]


def value(harness, family):
    return harness.scrape(family, "job_name").get(("j",))


def test_all_three_expectations_are_learned_from_runs_before_the_first_poll_which_are_not_counted(shown):
    shown.read(*past(HOURLY))
    assert shown.total() == 0
    assert value(shown, NEXT) == pytest.approx(HOURLY[-1] + HOUR + 600, abs=60)
    assert value(shown, FRESHNESS) == pytest.approx(2 * HOUR + 1200 + 3900, abs=60)
    assert value(shown, BUDGET) == 1200


def test_learned_values_are_exposed_at_once_after_a_restart(shown):
    shown.read(*past(HOURLY))
    before = [value(shown, family) for family in (NEXT, FRESHNESS, BUDGET)]
    shown.reopen()
    assert [value(shown, family) for family in (NEXT, FRESHNESS, BUDGET)] == before


def test_nothing_is_exposed_about_a_job_with_a_short_past(shown):
    shown.read(*past(HOURLY[-9:]))
    assert [value(shown, family) for family in (NEXT, FRESHNESS, BUDGET)] == [None] * 3


def test_a_disabled_job_expects_no_run_but_can_still_be_stale_or_slow(shown):
    shown.read(*past(HOURLY))
    enabled = value(shown, FRESHNESS)
    shown.read(jobs=[Job(job_id="j", name="j", enabled=False)])
    assert value(shown, NEXT) is None
    assert value(shown, FRESHNESS) == enabled
    assert value(shown, BUDGET) == 1200


def learned(harness):
    return sorted(name for (name,) in harness.scrape("jobrun_job_expectation_learned", "expectation"))


def test_learned_expectations_are_marked_as_learned(shown):
    assert learned(shown) == []
    shown.read(*past(HOURLY))
    assert learned(shown) == ["duration_budget", "freshness", "next_run"]


def test_a_schedule_from_the_vendor_is_not_learned(shown):
    shown.read(*past(HOURLY), jobs=[Job(job_id="j", name="j", schedule="30 4 * * *")])
    assert learned(shown) == ["duration_budget", "freshness"]


def test_configured_expectations_are_not_learned(tmp_path):
    harness = PageHarness(tmp_path / "state.db", more="objectives: [{freshness: 3h, every: 2h}]")
    harness.read(*past(HOURLY))
    assert value(harness, FRESHNESS) == 3 * HOUR
    assert learned(harness) == ["duration_budget"]
    harness.close()


def test_the_vendors_schedule_takes_precedence_over_a_learned_one(shown):
    shown.read(*past(HOURLY), jobs=[Job(job_id="j", name="j", schedule="30 4 * * *")])
    assert value(shown, NEXT) % DAY == 4.5 * HOUR


def test_a_job_enabled_again_is_not_late_for_runs_due_while_it_was_disabled(shown):
    shown.read(*past(HOURLY), jobs=[Job(job_id="j", name="j", enabled=False)])
    shown.now += 3 * DAY
    shown.read(jobs=[Job(job_id="j", name="j", enabled=True)])
    assert value(shown, NEXT) > shown.now


def test_a_changed_schedule_makes_no_job_late(shown):
    shown.read(*past([BASELINE - 3 * DAY]), jobs=[Job(job_id="j", name="j", schedule="0 0 1 * *")])
    shown.now += DAY
    shown.read(jobs=[Job(job_id="j", name="j", schedule="*/5 * * * *")])
    assert value(shown, NEXT) > shown.now - 300


def test_an_active_run_is_not_missing(shown):
    shown.read(*past(HOURLY))
    shown.read(run("now", start=BASELINE, state=State.EXECUTING))
    assert value(shown, NEXT) == pytest.approx(BASELINE + HOUR + 600, abs=60)


def test_the_latest_start_counts_although_a_run_that_started_earlier_ended_later(shown):
    long = ended("long", end=BASELINE + 3 * HOUR, length=4 * HOUR)
    shown.now = BASELINE + 3 * HOUR
    shown.read(*past(HOURLY), ended("short", end=BASELINE + 2 * HOUR, length=60), long)
    assert value(shown, NEXT) > BASELINE + 2.9 * HOUR


def test_runs_are_read_again_when_another_completed_but_not_all_the_time(shown):
    shown.read(*past(HOURLY))
    assert value(shown, BUDGET) == 1200
    slow = [ended(f"s{number}", end=BASELINE + number + 60, length=3000) for number in range(10)]
    shown.now += MIN_LEARN_INTERVAL / 2 - 60
    shown.read(*slow[:9])
    assert value(shown, BUDGET) == 1200
    shown.now += MIN_LEARN_INTERVAL
    shown.read(slow[9])
    assert value(shown, BUDGET) == 4500


def test_learned_values_are_deleted_with_the_runs(shown):
    shown.read(*past(HOURLY))
    assert value(shown, NEXT) is not None
    shown.now += 60 * DAY
    shown.read(through=shown.now)
    assert value(shown, NEXT) is not None
    shown.now += MAX_LEARN_INTERVAL
    prune(shown.ledger, shown.now, 30 * DAY)
    assert value(shown, NEXT) is None


def test_canceled_and_failed_runs_are_not_missing_either(shown):
    results = [Result.SUCCESS, Result.FAILURE, Result.CANCELLATION]
    runs = [
        ended(f"r{number}", end=start + 60, length=60, result=results[number % 3])
        for number, start in enumerate(HOURLY)
    ]
    shown.read(*runs)
    assert value(shown, NEXT) == pytest.approx(HOURLY[-1] + HOUR + 600, abs=60)


def test_while_many_jobs_are_learned_others_can_commit(shown):
    committed = []

    def commit():
        shown.ledger.start_poll("s", shown.now)
        committed.append(sum(job.learned.at is not None for job in shown.jobs().values()))

    def meanwhile():
        another = threading.Thread(target=commit, daemon=True)
        another.start()
        another.join(10)

    jobs = [Job(job_id=f"job-{number}", name=f"job-{number}") for number in range(25)]
    runs = [ended(f"{job.name} {end}", end=end, job_id=job.job_id) for job in jobs for end in HOURLY[-10:]]
    shown.read(*runs, jobs=jobs)
    shown.meanwhile = meanwhile
    shown.reopen()
    assert committed == [10, 20]
    assert sum(job.learned.at is not None for job in shown.jobs().values()) == 25
