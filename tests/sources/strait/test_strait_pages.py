"""The requests of a poll, and their results if the server gives unusual responses."""

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import pytest

from exporter.simulators.disruptions import Status
from exporter.simulators.message import json_response
from exporter.simulators.response_view import chosen
from exporter.simulators.strait_rows import StraitShape
from exporter.sources.view import View

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@pytest.fixture
def requested(simulator):
    """Return a function that returns the requests since its last call: `{"runs": 8}`."""

    def requests() -> Counter:
        lines = simulator.log.lines()
        simulator.log.clear()
        return Counter(line.endpoint for line in lines)

    return requests


def queries(simulator, endpoint="runs"):
    return [{key: value[0] for key, value in parse_qs(line.query).items()} for line in simulator.log.lines(endpoint)]


def test_an_idle_poll_requests_each_open_status_and_the_newest_page(simulator, exporter, requested):
    exporter.poll()
    assert requested() == {"jobs": 1, "workflows": 1, "runs": 9, "workflow_runs": 5}
    exporter.poll(60)
    assert [query.get("status") for query in queries(simulator)] == [
        "delayed",
        "replay_staged",
        "queued",
        "dequeued",
        "executing",
        "waiting",
        "paused",
        None,
        "dead_letter",
    ]
    assert all(query["limit"] == "100" for query in queries(simulator))
    assert requested() == {"runs": 9, "workflow_runs": 5}


def test_the_lists_of_jobs_are_read_every_tenth_poll(exporter, requested):
    exporter.poll()
    requested()
    for _ in range(10):
        exporter.poll(60)
    assert requested() == {"jobs": 1, "workflows": 1, "runs": 90, "workflow_runs": 50}


def test_a_poll_reads_pages_down_to_the_overlap_only(world, clock, make_exporter, requested):
    for minute in range(-240, 760):
        world.run("busy", created=clock() - minute * 60 - 30, duration=5.0)
    exporter = make_exporter(overlap="30m", sweep={"interval": "1d"})
    exporter.poll()
    assert requested()["runs"] == 9, "the first page holds only ended runs: deeper ones are of no use"
    exporter.poll(60)
    assert requested()["runs"] == 9, "a page holds more than the last half hour"
    exporter.poll(4 * HOUR)
    assert requested()["runs"] == 8 + 3, "270 runs were created in the last four and a half hours"


def test_the_first_poll_reads_further_while_pages_have_open_runs(world, clock, exporter, requested):
    for minute in range(400):
        world.run("busy", created=clock() - minute * 60 - 30, end=clock() + (60 if minute % 100 == 50 else -10))
    exporter.poll()
    assert requested()["runs"] == 7 + 5 + 1
    exporter.poll(90)
    assert exporter.completed("busy") == {"success": 4}


def test_a_sweep_reads_the_last_day_again(world, clock, exporter, requested):
    for minute in range(24 * 60):
        world.run("busy", created=clock() - minute * 60 - 30, duration=5.0)
    exporter.poll()
    exporter.poll(60)
    requested()
    exporter.poll(HOUR)
    assert requested()["runs"] == 8 + 14


def test_unchanged_rows_are_not_recorded_again(world, clock, exporter):
    for minute in range(50):
        world.run("busy", created=clock() - minute * 60 - 30, duration=5.0)
    exporter.poll()
    exporter.poll(60)
    view = View(ledger=exporter.ledger, source="strait", clock=clock, includes=lambda _: True)
    batches = list(exporter.source.fetch(view))
    assert sum(batch.unchanged for batch in batches) == 50
    assert not any(batch.runs for batch in batches)


@pytest.mark.parametrize("lists", ["page", "array"])
@pytest.mark.parametrize("number", [99, 100, 101, 250])
def test_pages_are_followed_in_either_shape(world, option, exporter, lists, number):
    option(lists=lists)
    exporter.poll()
    for place in range(number):
        world.run(f"job-{place % 5}", created=exporter.now + place * 0.001, duration=5.0)
    exporter.poll(60)
    assert sum(exporter.all_endings().values()) == number
    assert exporter.of_source("jobrun_source_truncated_responses_total") == 0


def test_a_key_of_one_environment_gets_short_and_empty_pages_and_all_its_runs(world, clock, option, exporter):
    option(hidden=0.95)
    exporter.poll()
    for place in range(1000):
        world.run("busy", created=clock() + place * 0.001, duration=5.0)
    assert exporter.poll(60) == "success", exporter.disruption
    visible = [run for run in world.runs(0, clock()) if not chosen(run.run_id, 0.95)]
    assert exporter.completed("busy") == {"success": len(visible)}
    assert 10 < len(visible) < 150


def test_rows_created_at_the_same_time_are_not_lost_at_a_page_boundary(world, clock, exporter):
    exporter.poll()
    for place in range(180):
        world.run("busy", created=clock() + (1 if 60 <= place < 150 else place * 0.001), duration=5.0)
    exporter.poll(60)
    assert exporter.completed("busy") == {"success": 180}
    assert exporter.of_source("jobrun_source_truncated_responses_total") == 0


def test_many_runs_created_at_the_same_time_are_split_by_status(world, clock, exporter):
    exporter.poll()
    for place in range(250):
        result = ("success", "failure", "timeout")[place % 3]
        world.run("busy", created=clock() + 1, duration=5.0, result=result)
    world.run("busy", created=clock() + 0.5, duration=5.0, result="error")
    world.run("busy", created=clock() + 2, duration=5.0, result="error")
    exporter.poll(60)
    assert exporter.completed("busy") == {"success": 84, "failure": 83, "timeout": 83, "error": 2}
    assert exporter.of_source("jobrun_source_truncated_responses_total") == 0


def test_a_too_large_response_is_requested_in_smaller_pages(world, clock, option, exporter, simulator):
    exporter.poll()
    for place in range(60):
        world.run("heavy", created=clock() + place * 0.001, duration=5.0)
    option(largest_body=80_000, rows=StraitShape(payload_bytes=5_000))
    simulator.log.clear()
    assert exporter.poll(60) == "success", exporter.disruption
    assert exporter.completed("heavy") == {"success": 60}
    sizes = [query["limit"] for query in queries(simulator)]
    assert sizes[-10:] == ["100", "50", "25", *["12"] * 7]
    simulator.log.clear()
    exporter.poll(60)
    assert "100" not in [query["limit"] for query in queries(simulator)], "it does not start again at the top"


def test_a_single_row_that_is_too_large_fails_the_list(world, clock, option, exporter):
    exporter.poll()
    world.run("heavy", created=clock(), duration=5.0)
    option(largest_body=1_000, rows=StraitShape(payload_bytes=5_000))
    assert exporter.poll(60) == "partial"
    assert "413" in exporter.disruption


def test_a_server_too_old_for_a_status_is_not_queried_for_it_again(option, exporter, requested):
    option(unknown_words=frozenset({"replay_staged", "paused", "compensating", "dead_letter"}))
    assert exporter.poll() == "success", exporter.disruption
    requested()
    exporter.poll(60)
    assert requested() == {"runs": 6, "workflow_runs": 3}

    option()  # the server is upgraded
    for _ in range(10):
        exporter.poll(60)
    requested()
    exporter.poll(60)
    assert requested() == {"runs": 9, "workflow_runs": 5}


def test_a_refused_page_is_caught_up_later(world, clock, simulator, exporter):
    exporter.poll()
    for place in range(250):
        world.run("busy", created=clock() + place * 0.001, duration=5.0)
    simulator.disruptions.set([Status(code=402, endpoint="runs", count=1)])
    assert exporter.poll(60) == "partial"
    assert "402" in exporter.disruption
    assert exporter.poll(60) == "success"
    assert exporter.completed("busy") == {"success": 250}


def endless(simulator, answers):
    """Replace the pages by pages that are never the last. `answers` returns the page after this number of pages."""
    numbers = itertools.count()
    original = simulator.answer

    def answer(request, route):
        if request.endpoint != "jobs":
            return original(request, route)
        return json_response(answers(next(numbers)))

    simulator.answer = answer


CREATED = "2023-11-14T22:13:20.5Z"
ENDLESS = {
    "the same page again": lambda _: {
        "data": [{"id": "a", "slug": "a", "created_at": CREATED}],
        "has_more": True,
        "next_cursor": CREATED,
    },
    "a cursor to and fro": lambda number: {
        "data": [{"id": f"a{number}", "slug": "a", "created_at": f"2023-11-14T22:13:2{number % 2}Z"}],
        "has_more": True,
        "next_cursor": f"2023-11-14T22:13:2{number % 2}Z",
    },
    "opaque cursors in a circle": lambda number: {
        "data": [{"id": f"a{number}", "slug": "a"}],
        "has_more": True,
        "next_cursor": "xyz"[number % 3],
    },
    "no cursor and no times": lambda number: {"data": [{"id": f"a{number}", "slug": "a"}], "has_more": True},
    "empty pages": lambda number: {
        "data": [],
        "has_more": True,
        "next_cursor": f"2023-11-14T22:13:{59 - number % 60}Z",
    },
    "always one page more": lambda number: {
        "data": [{"id": f"a{number}", "slug": "a", "created_at": "2020-01-01T00:00:00Z"}],
        "has_more": True,
        "next_cursor": (datetime(2023, 1, 1, tzinfo=UTC) - timedelta(seconds=number)).isoformat(),
    },
}


@pytest.mark.parametrize("answers", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_list_is_refused_and_loses_no_run(world, simulator, exporter, answers):
    exporter.poll()
    world.run("daily", duration=5.0)
    exporter.poll(60)
    endless(simulator, answers)
    for _ in range(11):
        exporter.poll(60)
    assert exporter.polled.poller.status.reason == "schema"
    assert "/jobs" in exporter.disruption
    world.run("daily", duration=5.0)
    exporter.poll(60)
    assert exporter.completed("daily") == {"success": 2}
