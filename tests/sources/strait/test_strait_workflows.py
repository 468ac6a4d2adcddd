import pytest

from exporter.counting.series import SEPARATOR
from exporter.simulators.strait_rows import StraitShape

HOUR = 3600.0


def test_a_workflow_is_a_job_with_steps(world, exporter):
    exporter.poll()
    world.run("nightly", duration=90.0, steps=["load", "model", "publish"], result="failure")
    world.run("plain", duration=5.0)
    exporter.poll(30)
    exporter.poll(60)
    exporter.poll(60)

    assert exporter.completed("nightly") == {"failure": 1}
    assert exporter.job("nightly").job.job_id.startswith("workflow:")
    assert exporter.count("jobrun_steps_total", "nightly", SEPARATOR.join(("load", "success"))) == 1
    assert exporter.job("nightly").last_steps.results == {"success": 2, "failure": 1}
    assert exporter.job("nightly").last_failure.failed_step == "publish"
    assert exporter.job("plain").last_steps is None


def test_steps_are_requested_once_per_workflow_run_and_never_for_jobs(world, simulator, exporter):
    exporter.poll()
    world.run("nightly", duration=5.0, steps=["load", "model"])
    for _ in range(5):
        world.run("plain", duration=5.0)
    simulator.log.clear()
    for _ in range(4):
        exporter.poll(60)

    assert len(simulator.log.lines("steps")) == 1
    assert exporter.ledger.store().count_pending_steps("strait") == 0


def test_steps_beyond_the_list_come_from_the_timeline(world, simulator, exporter):
    exporter.poll()
    world.run("wide", duration=130.0, steps=[f"step-{number}" for number in range(130)])
    exporter.poll(300)

    assert exporter.job("wide").last_steps.results == {"success": 130}
    assert (len(simulator.log.lines("steps")), len(simulator.log.lines("timeline"))) == (1, 1)


@pytest.mark.parametrize("result", ["failure", "timeout"])
def test_a_compensation_is_not_a_second_completion(world, option, exporter, result):
    option(rows=StraitShape(compensation=600.0))
    exporter.poll()
    run = world.run("booking", duration=30.0, steps=["reserve", "pay"], result=result)
    exporter.poll(60)
    assert exporter.completed("booking") == {result: 1}
    for _ in range(11):
        exporter.poll(60)
    assert exporter.open() == {run.run_id: "executing"}, "it compensates, which may hang"
    for _ in range(14):
        exporter.poll(60)

    assert exporter.completed("booking") == {result: 1}
    job = exporter.job("booking")
    assert (job.last_run.run_id, str(job.last_run.result), job.last_run.end) == (run.run_id, "failure", run.end + 1200)
    assert exporter.open() == {}


def test_a_compensation_that_never_ends_is_dropped_without_another_result(world, option, make_exporter):
    option(rows=StraitShape(compensation=90_000.0))
    exporter = make_exporter(max_run_age="2d")
    exporter.poll()
    world.run("booking", duration=30.0, steps=["pay"], result="failure")
    exporter.poll(60)
    exporter.poll(26 * HOUR)
    assert list(exporter.open().values()) == ["executing"]
    exporter.poll(23 * HOUR)
    exporter.poll(60)
    assert (exporter.open(), exporter.completed("booking")) == ({}, {"failure": 1})


def test_a_run_first_seen_during_its_compensation_is_open(world, clock, option, exporter):
    option(rows=StraitShape(compensation=600.0))
    world.run("booking", run_id="w", created=clock() - 700, duration=30.0, steps=["pay"], result="failure")
    exporter.poll()
    assert exporter.open() == {"w": "executing"}
    exporter.poll(600)

    assert exporter.completed("booking") == {"failure": 1}


def test_an_old_open_workflow_run_is_followed_by_id(world, clock, simulator, exporter):
    world.run("slow", run_id="w", created=clock() - 30 * HOUR, end=clock() + 30, steps=["wait"])
    for minute in range(100):
        world.run("flow", created=clock() - 3 * HOUR + minute * 60, duration=1.0, steps=["a"])
    exporter.poll()
    simulator.log.clear()
    exporter.poll(60)

    assert [line.path for line in simulator.log.lines("workflow_run")] == ["/v1/workflow-runs/w"]
    assert exporter.completed("slow") == {"success": 1}


def test_a_job_and_a_workflow_of_one_name_are_two_jobs(world, exporter):
    exporter.poll()
    world.run("nightly", job_id="a", duration=5.0)
    world.run("nightly", job_id="b", duration=5.0, steps=["load"], result="failure")
    exporter.poll(60)
    exporter.poll(60)

    assert exporter.completed("nightly") == {"success": 1}
    assert exporter.completed("nightly #workflow:b") == {"failure": 1}
