"""How a source stands is committed with its polls, and pages are a pure function of what is committed."""

import prometheus_client
import pytest

from exporter.counting.records import RateLimit
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.ledger.status import PollReport
from exporter.metrics.zero_first import ZeroFirst
from exporter.model import Batch, Job, Result
from tests.core.ledger_harness import BASELINE, Failing, ended, run
from tests.core.shown import ShownBook

POLLS = "jobrun_source_polls_total"
ERRORS = "jobrun_source_poll_errors_total"


@pytest.fixture
def book(tmp_path):
    book = ShownBook(tmp_path / "state.db", startup_hold="0s", released=False)
    yield book
    book.close()


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


def status(book):
    return book.ledger.source("s").status


def lines(page):
    """The page but for what belongs to the process."""
    process = ("jobrun_exporter_state_last_commit", "jobrun_exporter_state_size")
    return [line for line in bytes(page.text).decode().splitlines() if not line.startswith(process)]


def test_a_restart_serves_the_same_source_status_and_the_same_page(book):
    book.read(ended(), run("open", start=BASELINE), jobs=[Job(job_id="j", name="load", enabled=True)])
    book.ledger.finish_poll("s", report(book.now))
    book.ledger.finish_poll("s", failure(book.now + 60))
    book.publisher.publish()
    before, known = book.exposition.page, status(book)
    book.reopen()
    assert status(book) == known
    assert known.failures == 1
    assert known.error == "GET /runs: broken off"
    assert lines(book.exposition.page) == lines(before)
    assert any(line.startswith("jobrun_source_up") for line in lines(before))


def test_counters_of_polls_go_on_after_a_restart_and_are_served_at_once(book):
    for _ in range(3):
        book.ledger.finish_poll("s", report(book.now))
    book.ledger.finish_poll("s", failure(book.now))
    book.reopen()
    assert book.scrape(POLLS, "outcome") == {("success",): 3, ("error",): 1, ("partial",): 0, ("skipped",): 0}
    book.ledger.finish_poll("s", report(book.now, skipped=2))
    assert book.scrape(POLLS, "outcome") == {("success",): 4, ("error",): 1, ("partial",): 0, ("skipped",): 2}
    assert book.scrape("jobrun_exporter_scheduler_missed_polls_total") == {(): 2}


def test_what_rows_meant_is_committed_with_the_runs(book):
    book.read(ended("a"), ended("b", end=BASELINE - 50))
    before = book.scrape("jobrun_source_runs_fetched_total", "disposition")
    assert (before["new",], before["baseline",], before["late",]) == (1, 1, 0)
    assert book.scrape("jobrun_source_observation_delay_seconds_count") == {(): 1}
    book.reopen()
    assert book.scrape("jobrun_source_runs_fetched_total", "disposition") == before


def test_a_source_that_cannot_be_committed_is_shown_as_down_until_it_can_and_no_counter_falls(book):
    book.read(ended())
    book.ledger.finish_poll("s", report(book.now))
    Failing.fails = True
    book.ledger.finish_poll("s", report(book.now, "error", reason="state", error="disk full", reasons=["state"]))
    assert book.scrape("jobrun_source_up") == {(): 0}
    assert book.scrape(ERRORS, "reason")["state",] == 1
    with pytest.raises(StateError):
        book.ledger.commit("s", Batch(), book.poll_context)
    Failing.fails = False
    book.ledger.finish_poll("s", report(book.now + 60))
    assert (book.scrape("jobrun_source_up"), status(book).failures) == ({(): 1}, 0)
    assert book.scrape(ERRORS, "reason")["state",] == 1
    book.reopen()
    assert book.scrape(ERRORS, "reason")["state",] == 1


def test_how_polls_went_while_there_was_no_state_is_not_lost_when_there_is_one(book):
    book.ledger.finish_poll("s", failure(book.now))
    store, book.ledger._store = book.ledger._store, None
    opening, book.ledger._opening = book.ledger._opening, unopened
    book.ledger.finish_poll("s", failure(book.now + 60))
    assert book.scrape(POLLS, "outcome")["error",] == 2
    store.close()
    book.ledger._opening = opening
    book.ledger.load()
    assert book.scrape(POLLS, "outcome")["error",] == 2
    assert status(book).failures == 2


def unopened():
    raise StateError("not mounted")


def test_a_record_of_an_older_version_has_no_status_and_loads(book):
    book.read(ended())
    book.ledger.store()._db.execute("UPDATE sources SET record = json_remove(record, '$.status', '$.distributions')")
    book.reopen()
    assert status(book).up is None
    assert book.scrape("jobrun_source_up") == {}
    assert book.scrape(POLLS, "outcome")["success",] == 0


def test_a_page_is_a_pure_function_of_the_snapshot(book):
    """Whatever pages were made before: what is left of them changes nothing."""
    jobs = [Job(job_id=name, name=name) for name in "abc"]
    book.read(ended("1", job_id="a"), ended("2", job_id="b", result=Result.FAILURE), jobs=jobs)
    book.publisher.publish()
    book.read(ended("3", job_id="a", result=Result.FAILURE), ended("4", job_id="c", result=Result.FAILURE), jobs=jobs)
    book.publisher.publish()
    book.read(ended("5", job_id="b", end=BASELINE + 500), jobs=jobs)
    book.ledger.finish_poll("s", report(book.now))
    book.publisher.publish()
    fresh = Exposition(prometheus_client.CollectorRegistry(), ZeroFirst(120.0, float))
    page, again = book.exposition.page, fresh.render(book.publisher.snapshot)
    registry = bytes(page.text).decode().partition("# HELP python_info")[0]
    assert registry == bytes(again.text).decode()
    assert bytes(again.openmetrics)


def test_a_snapshot_shares_what_has_not_changed_with_the_one_before(book):
    book.read(ended("1", job_id="a"), ended("2", job_id="b"))
    book.publisher.publish()
    before = book.publisher.snapshot
    book.read(ended("3", job_id="b", end=BASELINE + 300))
    book.publisher.publish()
    after = book.publisher.snapshot
    first, second = sorted(before.jobs)
    assert after.jobs[first] is before.jobs[first]
    assert after.jobs[second] is not before.jobs[second]
    assert after.generation > before.generation
