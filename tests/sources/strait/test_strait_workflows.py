import pytest

from exporter.counting.series import SEPARATOR
from exporter.simulators.strait_rows import StraitShape

HOUR = 3600.0


def test_a_workflow_is_a_job_with_steps(world, reader):
    reader.poll()
    world.run("nightly", duration=90.0, steps=["load", "model", "publish"], result="failure")
    world.run("plain", duration=5.0)
    reader.poll(30)
    reader.poll(60)
    reader.poll(60)

    assert reader.endings("nightly") == {"failure": 1}
    assert reader.job("nightly").job.job_id.startswith("workflow:")
    assert reader.count("jobrun_steps_total", "nightly", SEPARATOR.join(("load", "success"))) == 1
    assert reader.job("nightly").last_steps.results == {"success": 2, "failure": 1}
    assert reader.job("nightly").last_failure.failed_step == "publish"
    assert reader.job("plain").last_steps is None


def test_steps_are_requested_once_per_workflow_run_and_never_for_jobs(world, simulator, reader):
    reader.poll()
    world.run("nightly", duration=5.0, steps=["load", "model"])
    for _ in range(5):
        world.run("plain", duration=5.0)
    simulator.log.clear()
    for _ in range(4):
        reader.poll(60)

    assert len(simulator.log.lines("steps")) == 1
    assert reader.ledger.count_pending_steps("strait") == 0


def test_steps_beyond_the_list_come_from_the_timeline(world, simulator, reader):
    reader.poll()
    world.run("wide", duration=130.0, steps=[f"step-{number}" for number in range(130)])
    reader.poll(300)

    assert reader.job("wide").last_steps.results == {"success": 130}
    assert (len(simulator.log.lines("steps")), len(simulator.log.lines("timeline"))) == (1, 1)


@pytest.mark.parametrize("result", ["failure", "timeout"])
def test_a_compensation_is_not_a_second_completion(world, option, reader, result):
    option(rows=StraitShape(compensation=600.0))
    reader.poll()
    run = world.run("booking", duration=30.0, steps=["reserve", "pay"], result=result)
    reader.poll(60)
    assert reader.endings("booking") == {result: 1}
    for _ in range(11):
        reader.poll(60)
    assert reader.open() == {run.run_id: "executing"}, "it compensates, which may hang"
    for _ in range(14):
        reader.poll(60)

    assert reader.endings("booking") == {result: 1}
    job = reader.job("booking")
    assert (job.last_run.run_id, str(job.last_run.result), job.last_run.end) == (run.run_id, "failure", run.end + 1200)
    assert reader.open() == {}


def test_a_compensation_that_never_ends_is_dropped_without_another_result(world, option, batch):
    option(rows=StraitShape(compensation=90_000.0))
    reader = batch(max_run_age="2d")
    reader.poll()
    world.run("booking", duration=30.0, steps=["pay"], result="failure")
    reader.poll(60)
    reader.poll(26 * HOUR)
    assert list(reader.open().values()) == ["executing"]
    reader.poll(23 * HOUR)
    reader.poll(60)
    assert (reader.open(), reader.endings("booking")) == ({}, {"failure": 1})


def test_a_run_first_seen_during_its_compensation_is_open(world, clock, option, reader):
    option(rows=StraitShape(compensation=600.0))
    world.run("booking", run_id="w", created=clock() - 700, duration=30.0, steps=["pay"], result="failure")
    reader.poll()
    assert reader.open() == {"w": "executing"}
    reader.poll(600)

    assert reader.endings("booking") == {"failure": 1}


def test_an_old_open_workflow_run_is_followed_by_id(world, clock, simulator, reader):
    world.run("slow", run_id="w", created=clock() - 30 * HOUR, end=clock() + 30, steps=["wait"])
    for minute in range(100):
        world.run("flow", created=clock() - 3 * HOUR + minute * 60, duration=1.0, steps=["a"])
    reader.poll()
    simulator.log.clear()
    reader.poll(60)

    assert [line.path for line in simulator.log.lines("workflow_run")] == ["/v1/workflow-runs/w"]
    assert reader.endings("slow") == {"success": 1}


def test_a_job_and_a_workflow_of_one_name_are_two_jobs(world, reader):
    reader.poll()
    world.run("nightly", job_id="a", duration=5.0)
    world.run("nightly", job_id="b", duration=5.0, steps=["load"], result="failure")
    reader.poll(60)
    reader.poll(60)

    assert reader.endings("nightly") == {"success": 1}
    assert reader.endings("nightly #workflow:b") == {"failure": 1}
