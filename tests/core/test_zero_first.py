"""Zero first, from the ledger to the page, across restarts."""

import pytest
from structlog.testing import capture_logs

from exporter.counting.records import copy
from exporter.errors import StateError
from exporter.metrics.families import UNOBSERVED
from exporter.model import Batch, Window
from tests.core.ledger_harness import BASELINE, DURATIONS, RUNS, Failing, ended
from tests.core.shown import ShownBook


@pytest.fixture
def make(tmp_path):
    committed = []

    def build(**fields):
        committed.append(ShownBook(tmp_path / "state.db", **fields))
        return committed[-1]

    yield build
    for book in committed:
        book.close()


@pytest.fixture
def book(make):
    return make()


def shown(book):
    return book.scrape(RUNS, "result").get(("success",))


def test_a_first_ending_shows_0_then_its_value(book):
    book.read(ended())
    assert (shown(book), book.scrape(f"{DURATIONS}_count", "result")) == (0, {("success",): 0})
    book.now += 119
    assert shown(book) == 0
    book.now += 1
    assert (shown(book), book.scrape(f"{DURATIONS}_count", "result")) == (1, {("success",): 1})


def test_endings_during_the_hold_add_up(book):
    book.read(ended("a"))
    assert shown(book) == 0
    book.read(ended("b", BASELINE + 130), ended("c", BASELINE + 131))
    book.now += 120
    assert shown(book) == 3


def test_the_hold_waits_for_a_scrape_however_long_that_takes(book):
    book.read(ended())
    for _ in range(10):
        book.now += 120
        book.publisher.tick()
    assert shown(book) == 0
    assert shown(book) == 1


def test_a_restart_begins_an_unreleased_hold_anew_and_never_hides_a_released_value(book):
    book.read(ended())
    assert shown(book) == 0
    book.now += 100
    book.reopen()
    book.read()
    assert shown(book) == 0
    book.now += 59
    assert shown(book) == 0
    book.now += 61
    assert shown(book) == 1
    book.reopen()
    book.read()
    assert shown(book) == 1


def test_a_release_that_cannot_be_committed_is_not_served(book):
    book.read(ended())
    assert shown(book) == 0
    book.now += 200
    Failing.fails = True
    assert shown(book) == 0
    Failing.fails = False
    book.now += 60
    assert shown(book) == 1


def test_a_release_that_cannot_be_committed_is_tried_and_logged_once_a_minute(book):
    book.read(ended())
    assert shown(book) == 0
    book.now += 200
    Failing.fails = True
    with capture_logs() as lines:
        for _ in range(120):
            assert shown(book) == 0
            book.now += 0.5
    Failing.fails = False
    assert [line["event"] for line in lines] == ["could not commit zero-first release; series still exposed as 0"]


def test_zero_first_can_be_switched_off(make):
    book = make(zero_first="0s")
    book.read(ended())
    assert shown(book) == 1


def test_counters_are_withheld_from_a_start_until_the_first_complete_poll_and_gauges_are_not(book):
    book.read(ended())
    shown(book)
    book.now += 200
    assert shown(book) == 1
    book.reopen()
    assert shown(book) is None
    assert book.scrape("jobrun_last_run_end_timestamp_seconds", "job_name") == {("j",): BASELINE + 100}
    book.begin()
    book.ledger.commit("s", Batch(runs=[ended("b", book.now)]), book.poll_context)
    assert shown(book) is None
    book.ledger.finish("s", book.poll_context, swept=False)
    assert shown(book) == 2


def test_counters_are_withheld_no_longer_than_the_startup_hold(book):
    book.read(ended())
    shown(book)
    book.now += 200
    assert shown(book) == 1
    book.reopen()
    book.now += 29
    assert shown(book) is None
    book.now += 1
    assert shown(book) == 1


def test_seconds_found_unobserved_at_the_start_rise_from_a_served_value(book):
    book.read(ended())
    book.scrape(UNOBSERVED)
    book.now += 200
    book.scrape(UNOBSERVED)
    book.reopen()
    book.read(unobserved=[Window(10, 70)])
    assert book.scrape(UNOBSERVED) == {(): 0}
    book.now += 60
    book.reopen()
    book.read()
    assert book.scrape(UNOBSERVED) == {(): 0}
    book.now += 120
    assert book.scrape(UNOBSERVED) == {(): 60}
    book.read(unobserved=[Window(10, 80)])
    assert book.scrape(UNOBSERVED) == {(): 70}


def test_a_page_is_made_even_while_the_state_cannot_be_asked(book):
    book.read(ended())
    shown(book)

    def refuse():
        raise StateError("gone")

    book.ledger.store().size = refuse
    assert shown(book) == 0


@pytest.mark.parametrize("word", ["held", "unobserved", "", "s"])
def test_no_status_word_of_a_vendor_is_taken_for_one_of_ours(book, word):
    book.read(ended())
    book.scrape(RUNS, "result")
    unmapped = "jobrun_source_unmapped_status_total"
    with book.ledger.locked():
        state = copy(book.ledger.committed.sources["s"])
        state.count(unmapped, word)
        book.ledger.committed.sources["s"] = state
    book.scrape(unmapped, "status")
    book.now += 121
    book.scrape(unmapped, "status")
    assert book.scrape(unmapped, "status") == {(word,): 1}


def test_a_job_whose_expectations_cannot_be_made_costs_only_these(book):
    views = book.publisher._views
    completed = views._completed
    views._completed = lambda view, *more, **how: completed(view, *more, **how) if view.state.name != "j" else {}["odd"]
    book.read(ended())
    assert shown(book) == 0
    book.now += 120
    assert shown(book) == 1
