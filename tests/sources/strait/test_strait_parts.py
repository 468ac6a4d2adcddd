"""A part of Strait that cannot be read does not affect other parts, and holds the watermark only for a while."""

import msgspec
import pytest

from exporter.simulators.disruptions import Garbage, Status
from exporter.simulators.strait import StraitOptions

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
ERRORS = [{"code": 409}, {"code": 403}, {"code": 422}]


def watermark(exporter, scope=""):
    return exporter.ledger.source("strait").scopes[scope].watermark


@pytest.mark.parametrize("disruption", [*ERRORS, None], ids=str)
def test_a_run_unreadable_by_id_affects_nothing_else(world, clock, exporter, simulator, disruption):
    created = clock() - 30 * HOUR
    for minute in range(110):  # the newest page shows other runs
        world.run("busy", created=clock() - 4 * HOUR + minute * 60, duration=1.0)
    world.run("slow", run_id="unreadable", created=created, duration=40 * HOUR)
    exporter.poll()
    assert exporter.open() == {"unreadable": "executing"}
    broken = (
        Garbage(text="<html>", path="/unreadable") if disruption is None else Status(**disruption, path="/unreadable")
    )
    simulator.disruptions.set([broken])
    world.run("slow", run_id="unreadable", created=created, duration=30 * HOUR + 30, result="failure")
    for _ in range(20):
        exporter.poll(60)
    assert "unreadable" in exporter.disruption
    run = world.run("daily", duration=5.0, steps=["load"])
    exporter.poll(60)
    assert exporter.completed("daily") == {"success": 1}
    assert exporter.job("daily").last_run.run_id == run.run_id
    assert watermark(exporter) > clock() - 5 * MINUTE
    simulator.disruptions.clear()
    exporter.poll(60)
    assert exporter.completed("slow") == {"failure": 1}


def test_the_source_is_down_while_workflow_runs_do_not_answer_for_at_most_15_minutes(exporter, simulator):
    def up():
        assert exporter.poll(60) == "partial"
        return exporter.polled.poller.status.up

    exporter.poll()
    simulator.disruptions.set([Status(code=409, endpoint="workflow_runs")])
    assert [up() for _ in range(14)] == [False] * 14
    exporter.poll(120)
    assert [up() for _ in range(3)] == [True] * 3
    simulator.disruptions.set([Status(code=403, endpoint="workflow_runs")])
    assert [up() for _ in range(3)] == [True] * 3, "a refused scope is not a readable one"


@pytest.mark.parametrize("endpoint", ["workflow_runs", "workflows"])
def test_unreadable_workflows_affect_only_workflows_and_are_caught_up(world, clock, exporter, simulator, endpoint):
    world.run("flow", created=clock() - 100, duration=5.0, steps=["a"])
    exporter.poll()
    simulator.disruptions.set([Status(code=409, endpoint=endpoint)])
    for _ in range(30):
        exporter.poll(60)
    world.run("flow", duration=5.0, steps=["a"], result="failure")
    world.run("daily", duration=5.0)
    exporter.poll(60)
    assert exporter.completed("daily") == {"success": 1}
    assert watermark(exporter) > clock() - 5 * MINUTE
    assert exporter.ledger.source("strait").watermark() > clock() - 5 * MINUTE, "workflows hold it no more"
    simulator.disruptions.clear()
    exporter.poll(60)
    exporter.poll(60)
    assert exporter.completed("flow") == {"failure": 1}
    assert exporter.ledger.source("strait").scopes["workflows"].readable


def test_workflow_runs_that_fail_for_long_are_shown_as_unreadable(exporter, simulator):
    exporter.poll()
    simulator.disruptions.set([Status(code=409, endpoint="workflow_runs")])
    exporter.poll(60)
    assert exporter.ledger.source("strait").scopes["workflows"].readable, "not at once"
    for _ in range(20):
        exporter.poll(60)
    assert not exporter.ledger.source("strait").scopes["workflows"].readable


def test_one_failing_status_list_affects_only_that_list(world, clock, exporter, simulator):
    exporter.poll()
    original = simulator.answer

    def answer(request, route):
        if request.query.get("status") == "waiting":
            return simulator.error(422, "broken")
        return original(request, route)

    simulator.answer = answer
    world.run("daily", duration=5.0)
    for _ in range(3):
        exporter.poll(60)
    assert "status waiting" in exporter.disruption
    assert exporter.completed("daily") == {"success": 1}
    assert watermark(exporter) > clock() - 5 * MINUTE


def test_a_failing_job_list_loses_no_run_of_a_known_job(world, exporter, simulator):
    world.run("daily", created=exporter.now - 100, duration=5.0)
    exporter.poll()
    simulator.disruptions.set([Status(code=409, endpoint="jobs")])
    exporter.restart()
    world.run("daily", duration=5.0, result="failure")
    exporter.poll(60)
    assert exporter.completed("daily") == {"failure": 1}
    assert "/jobs" in exporter.disruption


def test_runs_of_an_unnamed_job_wait_for_its_name(world, clock, exporter, simulator):
    exporter.poll()
    simulator.disruptions.set([Status(code=409, endpoint="jobs")])
    world.run("new-job", project="prod", duration=5.0, result="failure")
    for _ in range(5):
        exporter.poll(60)
    assert exporter.all_endings() == {}
    assert watermark(exporter) < clock() - 4 * MINUTE
    simulator.disruptions.clear()
    exporter.poll(60)
    exporter.poll(60)
    assert exporter.completed("new-job") == {"failure": 1}


def test_runs_of_an_unnamed_job_count_under_its_id_after_a_while(world, exporter, simulator):
    exporter.poll()
    simulator.disruptions.set([Status(code=409, endpoint="jobs")])
    world.run("new-job", job_id="j-1", duration=5.0, result="failure")
    for _ in range(25):
        exporter.poll(60)
    assert exporter.completed("j-1") == {"failure": 1}


def test_a_server_without_any_valid_response_is_an_error_of_the_whole_source(exporter, simulator):
    exporter.poll()
    simulator.disruptions.set([Status(code=409)])
    assert exporter.poll(60) == "error"
    assert "GET /runs: 409" in exporter.disruption


def test_a_compensation_is_followed_although_its_list_is_refused(world, clock, option, exporter):
    rows = msgspec.structs.replace(StraitOptions().rows, compensation=600.0)
    option(rows=rows, unknown_words=frozenset({"compensating"}))
    world.run("booking", run_id="w", created=clock() - 5 * HOUR, end=clock() + 30, result="failure", steps=["pay"])
    for minute in range(120):
        world.run("flow", created=clock() - 3 * HOUR + minute * 60, duration=1.0, steps=["a"])
    exporter.poll()
    exporter.poll(60)
    assert exporter.completed("booking") == {"failure": 1}
    for _ in range(11):
        exporter.poll(60)
    assert exporter.open() == {"w": "executing"}
    exporter.restart()
    for _ in range(12):
        exporter.poll(60)
    assert exporter.open() == {}
    assert exporter.completed("booking") == {"failure": 1}


def test_runs_that_failed_long_ago_are_not_read_for_a_compensation(world, clock, option, exporter, simulator):
    option(unknown_words=frozenset({"compensating"}))
    for minute in range(250):
        world.run("flow", created=clock() - 6 * HOUR + minute * 60, duration=1.0, result="failure", steps=["a"])
    exporter.poll()
    exporter.poll(HOUR)  # this poll sweeps
    simulator.log.clear()
    for _ in range(3):
        exporter.poll(60)
    assert ("workflow_run", 200) not in simulator.log.counts()
