"""A part of Northflank that cannot be read does not affect other parts, and holds the watermark only for a while."""

import itertools

import pytest

from exporter.model import Result
from exporter.simulators.disruptions import Garbage, Status
from exporter.simulators.message import json_response
from exporter.simulators.northflank import NorthflankOptions
from exporter.simulators.world import SimJob

NOW = 1_700_000_000.0
MINUTE, HOUR = 60.0, 3600.0
SUCCESS, FAILURE, UNKNOWN = Result.SUCCESS, Result.FAILURE, Result.UNKNOWN
POISON = [
    Status(code=500, endpoint="runs", path="/jobs/bad/"),
    Status(code=403, endpoint="runs", path="/jobs/bad/"),
    Status(code=404, endpoint="runs", path="/jobs/bad/"),
    Garbage(text="<html>", endpoint="runs", path="/jobs/bad/"),
    Garbage(text="{}", endpoint="runs", path="/jobs/bad/"),
]


@pytest.fixture
def exporter_with_bad_job(exporter, world):
    """Return an exporter that has read two good jobs, and a job `bad` that will become unreadable."""
    for name in ("good", "other", "bad"):
        world.run(name, start=NOW - HOUR)
    exporter.live(5 * MINUTE)
    return exporter


@pytest.mark.parametrize("disruption", POISON, ids=str)
def test_one_unreadable_job_affects_only_itself_and_is_caught_up(exporter_with_bad_job, world, simulator, disruption):
    simulator.disruptions.set([disruption])
    before = exporter_with_bad_job.clock()
    for minute in range(0, 60, 10):
        for name in ("good", "bad"):
            world.run(name, start=before + minute * MINUTE + 1, duration=20.0, result="failure")
    exporter_with_bad_job.live(HOUR)
    assert "bad" in exporter_with_bad_job.poller.status.error
    exporter_with_bad_job.live(15 * MINUTE)
    assert exporter_with_bad_job.counted() == {("prod/good", FAILURE): 6}
    assert exporter_with_bad_job.watermark() > exporter_with_bad_job.clock() - 15 * MINUTE, (
        "it waits for 15 minutes and no longer"
    )
    assert exporter_with_bad_job.ledger.source(exporter_with_bad_job.name).scopes["prod"].readable

    simulator.disruptions.clear()
    exporter_with_bad_job.live(15 * MINUTE)
    assert exporter_with_bad_job.counted() == {("prod/good", FAILURE): 6, ("prod/bad", FAILURE): 6}
    assert exporter_with_bad_job.source_count("jobrun_source_unobserved_seconds_total") == 0


def test_the_source_is_down_while_a_project_does_not_answer_for_at_most_15_minutes(exporter_with_bad_job, simulator):
    ups = []
    simulator.disruptions.set([Status(code=500, endpoint="jobs")])
    exporter_with_bad_job.live(HOUR, lambda: ups.append(exporter_with_bad_job.poller.status.up))
    first, after = ups.index(False), ups[ups.index(False) :].index(True)
    assert ups == [True] * first + [False] * after + [True] * (len(ups) - first - after)
    assert 10 <= after <= 16


def test_the_source_stays_up_while_one_job_does_not_answer(exporter_with_bad_job, simulator):
    ups = []
    simulator.disruptions.set([POISON[0]])
    exporter_with_bad_job.live(20 * MINUTE, lambda: ups.append(exporter_with_bad_job.poller.status.up))
    assert set(ups) == {True}


@pytest.mark.parametrize("disruption", POISON, ids=str)
def test_the_watermark_waits_for_a_job_that_fails_for_a_moment(exporter_with_bad_job, simulator, disruption):
    simulator.disruptions.set([disruption])
    exporter_with_bad_job.live(12 * MINUTE)
    held = exporter_with_bad_job.watermark()
    assert held < exporter_with_bad_job.clock() - 8 * MINUTE
    simulator.disruptions.clear()
    exporter_with_bad_job.live(12 * MINUTE)
    assert exporter_with_bad_job.watermark() > held + 8 * MINUTE


def test_unread_runs_of_a_failing_job_are_caught_up_after_a_kill(exporter_with_bad_job, world, simulator):
    simulator.disruptions.set([POISON[0]])
    world.run("bad", start=exporter_with_bad_job.clock() + 1, duration=20.0, result="failure")
    exporter_with_bad_job.live(40 * MINUTE)
    exporter_with_bad_job.start()
    exporter_with_bad_job.live(10 * MINUTE)
    simulator.disruptions.clear()
    exporter_with_bad_job.live(15 * MINUTE)
    assert exporter_with_bad_job.counted() == {("prod/bad", FAILURE): 1}


def test_a_job_that_was_never_readable_does_not_hold_the_watermark(exporter, world, simulator):
    simulator.disruptions.set([POISON[0]])
    for name in ("good", "bad"):
        world.run(name, start=NOW - HOUR)
    exporter.live(10 * MINUTE)
    assert exporter.watermark() is None
    exporter.live(20 * MINUTE)
    assert exporter.watermark() is not None
    world.run("bad", start=exporter.clock() - 5 * MINUTE, duration=20.0)
    simulator.disruptions.clear()
    exporter.live(15 * MINUTE)
    assert exporter.counted() == {("prod/bad", SUCCESS): 1}


def test_one_run_unreadable_by_id_affects_nothing_else(exporter, world, simulator):
    old = world.run("good", start=NOW - HOUR, duration=5 * HOUR)
    exporter.poll()
    simulator.disruptions.set([Status(code=500, endpoint="run")])
    for second in range(150):
        world.run("good", start=NOW + second, duration=1.0)
    exporter.live(10 * MINUTE)
    assert old.run_id in exporter.open()
    assert exporter.watermark() < exporter.clock() - 5 * MINUTE
    exporter.live(20 * MINUTE)
    assert exporter.watermark() > exporter.clock() - 12 * MINUTE
    simulator.disruptions.clear()
    exporter.live(5 * HOUR)
    assert exporter.counted() == {("prod/good", SUCCESS): 151}


@pytest.mark.parametrize(
    "disruption", [Status(code=500, path="/projects/sick/"), Garbage(text="[]", path="/projects/sick/")], ids=str
)
def test_one_failing_project_becomes_unreadable_and_is_caught_up(exporter, world, simulator, disruption):
    for project in ("prod", "sick"):
        world.run("a", project=project, start=NOW - HOUR)
    exporter.live(5 * MINUTE)
    simulator.disruptions.set([disruption])
    for project in ("prod", "sick"):
        world.run("a", project=project, start=exporter.clock() + 1, duration=20.0, result="failure")
    exporter.live(HOUR)
    scopes = exporter.ledger.source(exporter.name).scopes
    assert (scopes["prod"].readable, scopes["sick"].readable) == (True, False)
    assert scopes["sick"].watermark < exporter.clock() - 50 * MINUTE
    assert exporter.watermark() > exporter.clock() - 15 * MINUTE
    assert exporter.counted() == {("prod/a", FAILURE): 1}
    simulator.disruptions.clear()
    exporter.live(25 * MINUTE)
    assert exporter.ledger.source(exporter.name).scopes["sick"].readable
    assert exporter.counted() == {("prod/a", FAILURE): 1, ("sick/a", FAILURE): 1}


def test_many_failing_jobs_do_not_look_like_an_api_that_is_down(exporter, world, simulator):
    for name in [f"bad{number}" for number in range(5)] + ["good"]:
        world.run(name, start=NOW - HOUR)
    simulator.disruptions.set([Status(code=400, endpoint="runs", path="/jobs/bad")])
    exporter.poll()
    assert exporter.counted() == {}
    world.run("good", start=NOW + 61, duration=5.0)
    exporter.live(25 * MINUTE)
    assert exporter.counted() == {("prod/good", SUCCESS): 1}


def test_an_api_without_any_valid_response_is_an_error_of_the_whole_source(exporter_with_bad_job, simulator):
    simulator.disruptions.set([Status(code=500)])
    exporter_with_bad_job.live(15 * MINUTE)
    assert exporter_with_bad_job.poller.status.outcome == "error"
    assert exporter_with_bad_job.poller.status.error == "GET /projects: 500"


@pytest.mark.parametrize(("endpoint", "most"), [("runs", 10), (None, 4)], ids=["no job responds", "nothing responds"])
def test_a_poll_ends_after_a_few_failures(exporting, world, simulator, endpoint, most):
    simulator.options = NorthflankOptions(requests_per_hour=10**6)
    exporter = exporting(requests_per_minute=10**5)
    for number in range(40):
        world.run(f"job-{number}", start=NOW - HOUR)
    exporter.poll()
    exporter.clock.advance(11 * MINUTE)
    simulator.disruptions.set([Status(code=500, endpoint=endpoint)])
    simulator.log.clear()
    exporter.poll()
    assert len(simulator.log.lines(endpoint)) == 3 * most, "each is tried three times"


def test_a_job_missing_in_the_list_is_read_as_long_as_it_responds(exporter_with_bad_job, world, simulator):
    original = simulator.answer

    def answer(request, route):
        response = original(request, route)
        if request.endpoint != "jobs":
            return response
        rows = ("good", "other")
        return json_response({"data": {"jobs": [{"id": row, "name": row} for row in rows]}, "pagination": {}})

    simulator.answer = answer
    exporter_with_bad_job.live(2 * HOUR)
    world.run("bad", start=exporter_with_bad_job.clock() + 1, duration=20.0, result="failure")
    exporter_with_bad_job.live(20 * MINUTE)
    assert not exporter_with_bad_job.job("prod/bad").gone
    assert exporter_with_bad_job.counted() == {("prod/bad", FAILURE): 1}


def test_an_open_run_of_a_deleted_job_ends_as_unknown(exporter_with_bad_job, world, simulator):
    run = world.run("bad", start=exporter_with_bad_job.clock() + 1, duration=9 * HOUR)
    exporter_with_bad_job.live(12 * MINUTE)
    assert run.run_id in exporter_with_bad_job.open()
    simulator.options = NorthflankOptions(missing_jobs=frozenset({"prod/bad"}))
    exporter_with_bad_job.live(10 * MINUTE)
    assert run.run_id in exporter_with_bad_job.open(), "the list may be wrong for a while"
    seen = []
    exporter_with_bad_job.live(40 * MINUTE, lambda: seen.append(exporter_with_bad_job.counted()))
    assert {("prod/bad", UNKNOWN): 1} in seen
    assert exporter_with_bad_job.open() == set()


ENDLESS = {
    "the same page again": lambda _: ([1], "c"),
    "a cursor to and fro": lambda number: ([number % 2], "ab"[number % 2]),
    "page numbers that change nothing": lambda _: ([1], None),
    "empty pages": lambda number: ([], f"c{number}"),
    "always one page more": lambda number: ([number], f"c{number}"),
}


@pytest.mark.parametrize("endpoint", ["projects", "jobs", "runs"])
@pytest.mark.parametrize("pages", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_list_is_refused(exporting, world, simulator, endpoint, pages):
    exporter = exporting(requests_per_minute=6000)
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod"))
    numbers, original = itertools.count(), simulator.answer

    def answer(request, route):
        if request.endpoint != endpoint:
            return original(request, route)
        rows, cursor = pages(next(numbers))
        more = {"hasNextPage": True} | ({} if cursor is None else {"cursor": cursor})
        started = [{"id": f"i{row}", "name": "x", "status": "RUNNING"} for row in rows]
        return json_response({"data": {endpoint: started}, "pagination": more})

    simulator.options = NorthflankOptions(requests_per_hour=10**6)
    simulator.answer = answer
    exporter.poll()
    if (endpoint, pages) != ("runs", ENDLESS["always one page more"]):
        assert exporter.poller.status.reason == "schema"
        assert "does not end" in exporter.poller.status.error
    assert next(numbers) <= 310
