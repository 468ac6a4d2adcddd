"""The status of a source is committed with its polls, and pages are a pure function of the committed records."""

import prometheus_client
import pytest

from exporter.counting.records import RateLimit
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.ledger.status import PollReport
from exporter.metrics.zero_first import ZeroFirst
from exporter.model import Batch, Job, Result
from tests.core.ledger_harness import BASELINE, Failing, ended, run
from tests.core.page_harness import PageHarness

POLLS = "jobrun_source_polls_total"
ERRORS = "jobrun_source_poll_errors_total"


@pytest.fixture
def harness(tmp_path):
    harness = PageHarness(tmp_path / "state.db", startup_hold="0s", released=False)
    yield harness
    harness.close()


def report(now, outcome="success", **fields):
    return PollReport(
        **{
            "ended": now,
            "duration": 2.5,
            "outcome": outcome,
            "interval": 60.0,
            "rate_limit": RateLimit(limit=100, remaining=50, reset=now + 60),
            "credential_expiry": now + 3600,
            **fields,
        }
    )


def failure(now):
    return report(now, "error", reason="network", error="GET /runs: broken off", reasons=["network"])


def status(harness):
    return harness.ledger.source("s").status


def lines(page):
    """Return the page without the metrics of the process."""
    process = ("jobrun_exporter_state_last_commit", "jobrun_exporter_state_size")
    return [line for line in bytes(page.text).decode().splitlines() if not line.startswith(process)]


def test_a_restart_serves_the_same_source_status_and_the_same_page(harness):
    harness.read(ended(), run("open", start=BASELINE), jobs=[Job(job_id="j", name="load", enabled=True)])
    harness.ledger.finish_poll("s", report(harness.now))
    harness.ledger.finish_poll("s", failure(harness.now + 60))
    harness.publisher.publish()
    before, known = harness.exposition.page, status(harness)
    harness.reopen()
    assert status(harness) == known
    assert known.failures == 1
    assert known.error == "GET /runs: broken off"
    assert lines(harness.exposition.page) == lines(before)
    assert any(line.startswith("jobrun_source_up") for line in lines(before))


def test_a_credential_is_known_since_its_expiry_was_first_seen_also_after_a_restart(harness):
    harness.read(ended())
    now = harness.now
    for later, expiry, since in ((0, now + 500, now), (60, now + 500, now), (120, now + 900, now + 120)):
        harness.ledger.finish_poll("s", report(now + later, credential_expiry=expiry))
        harness.reopen()
        assert status(harness).credential_since == since


def test_counters_of_polls_continue_after_a_restart_and_are_served_at_once(harness):
    for _ in range(3):
        harness.ledger.finish_poll("s", report(harness.now))
    harness.ledger.finish_poll("s", failure(harness.now))
    harness.reopen()
    assert harness.scrape(POLLS, "outcome") == {("success",): 3, ("error",): 1, ("partial",): 0, ("skipped",): 0}
    harness.ledger.finish_poll("s", report(harness.now, skipped=2))
    assert harness.scrape(POLLS, "outcome") == {("success",): 4, ("error",): 1, ("partial",): 0, ("skipped",): 2}
    assert harness.scrape("jobrun_exporter_scheduler_missed_polls_total") == {(): 2}


def test_row_outcomes_are_committed_with_the_runs(harness):
    harness.read(ended("a"), ended("b", end=BASELINE - 50))
    before = harness.scrape("jobrun_source_runs_fetched_total", "disposition")
    assert (before["new",], before["baseline",], before["late",]) == (1, 1, 0)
    assert harness.scrape("jobrun_source_observation_delay_seconds_count") == {(): 1}
    harness.reopen()
    assert harness.scrape("jobrun_source_runs_fetched_total", "disposition") == before


def test_a_source_that_cannot_be_committed_is_down_and_its_errors_are_counted_later(harness):
    harness.read(ended())
    harness.ledger.finish_poll("s", report(harness.now))
    Failing.fails = True
    fail_to_finish(harness, error="disk full")
    assert harness.scrape("jobrun_source_up") == {(): 0}
    assert harness.scrape(ERRORS, "reason")["state",] == 0
    with pytest.raises(StateError):
        harness.ledger.commit("s", Batch(runs=[ended("b")]), harness.poll_context)
    Failing.fails = False
    harness.ledger.finish_poll("s", report(harness.now + 60))
    assert (harness.scrape("jobrun_source_up"), status(harness).failures) == ({(): 1}, 0)
    assert harness.scrape(ERRORS, "reason")["state",] == 1
    harness.reopen()
    assert harness.scrape(ERRORS, "reason")["state",] == 1


def test_no_counter_falls_when_the_process_dies_while_nothing_can_be_written(harness):
    harness.read(ended())
    harness.ledger.finish_poll("s", report(harness.now))
    Failing.fails = True
    harness.ledger.skip_polls("s", 3, harness.now)
    for _ in range(2):
        fail_to_finish(harness, skipped=1)
    served = counters(harness)
    Failing.fails = False
    harness.open()  # not closed, like after a kill
    assert {series: value for series, value in served.items() if counters(harness)[series] < value} == {}
    assert served[POLLS, "success"] == 2


def fail_to_finish(harness, **fields):
    with pytest.raises(StateError):
        harness.ledger.finish_poll("s", report(harness.now))
    harness.ledger.keep_poll("s", report(harness.now, "error", reason="state", reasons=["state"], **fields))


def counters(harness):
    """Return the counters of polls that the page serves."""
    found = {(name, key): value for name in (POLLS, ERRORS) for (key,), value in scraped(harness, name).items()}
    return {**found, "missed": harness.scrape("jobrun_exporter_scheduler_missed_polls_total")[()]}


def scraped(harness, name):
    return harness.scrape(name, "outcome" if name == POLLS else "reason")


def test_poll_results_from_before_the_state_opened_are_not_lost(harness):
    harness.ledger.finish_poll("s", failure(harness.now))
    store, harness.ledger._store = harness.ledger._store, None
    opening, harness.ledger._opening = harness.ledger._opening, unopened
    fail_to_finish(harness)
    assert harness.scrape(POLLS, "outcome")["error",] == 1
    store.close()
    harness.ledger._opening = opening
    harness.ledger.load()
    assert status(harness).failures == 2
    harness.ledger.finish_poll("s", report(harness.now + 120))
    assert harness.scrape(POLLS, "outcome")["error",] == 2
    harness.reopen()
    assert harness.scrape(POLLS, "outcome")["error",] == 2


def unopened():
    raise StateError("not mounted")


def test_a_record_of_an_older_version_has_no_status_and_loads(harness):
    harness.read(ended())
    harness.ledger.store()._db.execute("UPDATE sources SET record = json_remove(record, '$.status', '$.counts')")
    harness.reopen()
    assert status(harness).up is None
    assert harness.scrape("jobrun_source_up") == {}
    assert harness.scrape(POLLS, "outcome")["success",] == 0


def test_a_page_is_a_pure_function_of_the_snapshot(harness):
    """Pages that were rendered before change nothing."""
    jobs = [Job(job_id=name, name=name) for name in "abc"]
    harness.read(ended("1", job_id="a"), ended("2", job_id="b", result=Result.FAILURE), jobs=jobs)
    harness.publisher.publish()
    harness.read(
        ended("3", job_id="a", result=Result.FAILURE), ended("4", job_id="c", result=Result.FAILURE), jobs=jobs
    )
    harness.publisher.publish()
    harness.read(ended("5", job_id="b", end=BASELINE + 500), jobs=jobs)
    harness.ledger.finish_poll("s", report(harness.now))
    harness.publisher.publish()
    fresh = Exposition(prometheus_client.CollectorRegistry(), ZeroFirst(120.0, float))
    page, again = harness.exposition.page, fresh.render(harness.publisher.snapshot)
    registry = bytes(page.text).decode().partition("# HELP python_info")[0]
    assert registry == bytes(again.text).decode()
    assert bytes(again.openmetrics)


def test_a_snapshot_shares_what_has_not_changed_with_the_one_before(harness):
    harness.read(ended("1", job_id="a"), ended("2", job_id="b"))
    harness.publisher.publish()
    before = harness.publisher.snapshot
    harness.read(ended("3", job_id="b", end=BASELINE + 300))
    harness.publisher.publish()
    after = harness.publisher.snapshot
    first, second = sorted(before.jobs)
    assert after.jobs[first] is before.jobs[first]
    assert after.jobs[second] is not before.jobs[second]
    assert after.generation > before.generation
