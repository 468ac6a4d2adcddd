"""Zero first, from the ledger to the page, across restarts."""

import pytest
from structlog.testing import capture_logs

from exporter.counting.records import copy
from exporter.errors import StateError
from exporter.metrics.families import UNOBSERVED
from exporter.model import Batch, Job, Window
from tests.core.ledger_harness import BASELINE, DURATIONS, RUNS, Failing, ended
from tests.core.page_harness import PageHarness


@pytest.fixture
def make(tmp_path):
    committed = []

    def build(**fields):
        committed.append(PageHarness(tmp_path / "state.db", **fields))
        return committed[-1]

    yield build
    for harness in committed:
        harness.close()


@pytest.fixture
def harness(make):
    return make()


def shown(harness):
    return harness.scrape(RUNS, "result").get(("success",))


def test_a_first_completion_shows_0_and_then_its_value(harness):
    harness.read(ended())
    assert (shown(harness), harness.scrape(f"{DURATIONS}_count", "result")) == (0, {("success",): 0})
    harness.now += 119
    assert shown(harness) == 0
    harness.now += 1
    assert (shown(harness), harness.scrape(f"{DURATIONS}_count", "result")) == (1, {("success",): 1})


def test_completions_while_pending_add_up(harness):
    harness.read(ended("a"))
    assert shown(harness) == 0
    harness.read(ended("b", BASELINE + 130), ended("c", BASELINE + 131))
    harness.now += 120
    assert shown(harness) == 3


def test_a_pending_series_waits_for_a_scrape_no_matter_how_long(harness):
    harness.read(ended())
    for _ in range(10):
        harness.now += 120
        harness.publisher.tick()
    assert shown(harness) == 0
    assert shown(harness) == 1


def test_a_restart_makes_a_pending_series_wait_again_and_never_hides_an_exposed_value(harness):
    harness.read(ended())
    assert shown(harness) == 0
    harness.now += 100
    harness.reopen()
    harness.read()
    assert shown(harness) == 0
    harness.now += 59
    assert shown(harness) == 0
    harness.now += 61
    assert shown(harness) == 1
    harness.reopen()
    harness.read()
    assert shown(harness) == 1


@pytest.mark.parametrize("seconds", [60, 120])
def test_a_job_renamed_while_its_series_are_pending_shows_0_under_its_new_name(harness, seconds):
    harness.read(ended("a"), jobs=[Job(job_id="j", name="old")])
    assert harness.scrape(RUNS, "job_name", "result")["old", "success"] == 0
    harness.now += seconds
    harness.begin()
    batch = Batch(jobs=[Job(job_id="j", name="new")], runs=[ended("b", harness.now)], through=harness.now - 60)
    harness.ledger.commit("s", batch, harness.poll_context)
    harness.publisher.tick()  # the last page still has the old name
    assert harness.scrape(RUNS, "job_name", "result")["new", "success"] == 0
    harness.now += 119
    assert harness.scrape(RUNS, "job_name", "result")["new", "success"] == 0
    harness.now += 1
    assert harness.scrape(RUNS, "job_name", "result")["new", "success"] == 1


def test_a_value_is_not_served_if_its_exposure_cannot_be_committed(harness):
    harness.read(ended())
    assert shown(harness) == 0
    harness.now += 200
    Failing.fails = True
    assert shown(harness) == 0
    Failing.fails = False
    harness.now += 60
    assert shown(harness) == 1


def test_a_failed_commit_of_an_exposure_is_retried_and_logged_once_per_minute(harness):
    harness.read(ended())
    assert shown(harness) == 0
    harness.now += 200
    Failing.fails = True
    with capture_logs() as lines:
        for _ in range(120):
            assert shown(harness) == 0
            harness.now += 0.5
    Failing.fails = False
    assert [line["event"] for line in lines] == ["could not commit zero-first release; series still exposed as 0"]


def test_zero_first_can_be_disabled(make):
    harness = make(zero_first="0s")
    harness.read(ended())
    assert shown(harness) == 1


def test_counters_are_withheld_from_a_start_until_the_first_complete_poll_and_gauges_are_not(harness):
    harness.read(ended())
    shown(harness)
    harness.now += 200
    assert shown(harness) == 1
    harness.reopen()
    assert shown(harness) is None
    assert harness.scrape("jobrun_last_run_end_timestamp_seconds", "job_name") == {("j",): BASELINE + 100}
    harness.begin()
    harness.ledger.commit("s", Batch(runs=[ended("b", harness.now)]), harness.poll_context)
    assert shown(harness) is None
    harness.ledger.complete_poll("s", harness.poll_context, swept=False)
    assert shown(harness) == 2


def test_counters_are_withheld_no_longer_than_the_startup_hold(harness):
    harness.read(ended())
    shown(harness)
    harness.now += 200
    assert shown(harness) == 1
    harness.reopen()
    harness.now += 29
    assert shown(harness) is None
    harness.now += 1
    assert shown(harness) == 1


def test_seconds_found_unobserved_at_the_start_rise_from_a_served_value(harness):
    harness.read(ended())
    harness.scrape(UNOBSERVED)
    harness.now += 200
    harness.scrape(UNOBSERVED)
    harness.reopen()
    harness.read(unobserved=[Window(10, 70)])
    assert harness.scrape(UNOBSERVED) == {(): 0}
    harness.now += 60
    harness.reopen()
    harness.read()
    assert harness.scrape(UNOBSERVED) == {(): 0}
    harness.now += 120
    assert harness.scrape(UNOBSERVED) == {(): 60}
    harness.read(unobserved=[Window(10, 80)])
    assert harness.scrape(UNOBSERVED) == {(): 70}


def test_a_page_is_rendered_even_while_the_state_cannot_be_read(harness):
    harness.read(ended())
    shown(harness)

    def refuse():
        raise StateError("gone")

    harness.ledger.store().size = refuse
    assert shown(harness) == 0


@pytest.mark.parametrize("word", ["held", "unobserved", "", "s"])
def test_no_status_of_a_vendor_is_mistaken_for_one_of_ours(harness, word):
    harness.read(ended())
    harness.scrape(RUNS, "result")
    unmapped = "jobrun_source_unmapped_status_total"
    with harness.ledger.lock:
        state = copy(harness.ledger.committed.sources["s"])
        state.count(unmapped, word)
        harness.ledger.committed.sources["s"] = state
    harness.scrape(unmapped, "status")
    harness.now += 121
    harness.scrape(unmapped, "status")
    assert harness.scrape(unmapped, "status") == {(word,): 1}


def test_a_job_whose_expectations_fail_loses_only_its_expectations(harness):
    views = harness.publisher._builder._views
    completed = views._with_expectations
    views._with_expectations = lambda view, *more, **how: (
        completed(view, *more, **how) if view.state.name != "j" else int("odd")
    )
    harness.read(ended())
    assert shown(harness) == 0
    harness.now += 120
    assert shown(harness) == 1
