import math
import random

import msgspec
import pytest

from exporter.model import Result, State
from exporter.simulators import SIMULATORS
from exporter.simulators.demo import PLANS, demo_world
from exporter.simulators.generated import GeneratedWorld, JobPlan, StepPlan
from exporter.simulators.rate import FixedWindow
from exporter.simulators.world import overlaps

DAY = 86400.0
NOW = 1_700_000_000.0
EVERY_PLAN = tuple(plan for plans in PLANS.values() for plan in plans)


# --- scripted


def test_a_run_without_times_starts_now_and_lasts_a_minute(world, clock):
    run = world.run("a")
    assert (run.created, run.start, run.end) == (clock(), clock(), clock() + 60)


def test_steps_share_the_time_of_their_run(world):
    steps = world.run("a", start=0.0, duration=30.0, steps=["x", "y", "z"]).steps
    assert [(step.start, step.end) for step in steps] == [(0, 10), (10, 20), (20, 30)]


def test_the_last_step_of_a_failed_run_fails_by_default(world):
    assert [step.result for step in world.run("a", result="failure", steps=["x", "y"]).steps] == ["success", "failure"]


def test_a_run_without_a_result_and_the_steps_after_its_stuck_step_never_complete(world, clock):
    run = world.run("a", start=0.0, result=None, steps=[{"name": "x", "result": None}, "y"])
    assert (run.end, run.at(clock())) == (None, State.EXECUTING)
    assert [step.at(clock()) for step in run.steps] == [State.EXECUTING, State.PENDING]


def test_an_open_run_can_be_completed(world, clock):
    run = world.run("a", result=None, steps=["x"])
    ended = world.end(run.run_id, clock() + 5, Result.FAILURE)
    assert world.find(run.run_id, clock()) == ended
    assert (ended.end, ended.steps[0].result) == (clock() + 5, "failure")


def test_a_reopened_run_completes_twice(world, clock):
    first = world.run("a", run_id="x", start=clock() - 100, duration=10)
    second = world.run("a", run_id="x", start=clock() - 50, duration=10)
    assert world.find("x", clock()) == second
    assert world.find("x", clock() - 60) == first
    assert len(world.runs(0, clock())) == 2


def test_a_range_has_every_run_that_overlaps_it(world):
    generator = random.Random(1)  # noqa: S311  # any runs will do, but the same each time
    for _ in range(300):
        start = generator.uniform(0, 1000)
        world.run(
            "a", start=start, duration=generator.expovariate(0.02), result=generator.choice(["success", "failure"])
        )
        world.run("b", start=start, result=None)
    everything = world.runs(-1e9, 1e9)
    for since, until in ((0, 1), (100, 200), (500, 500), (990, 5000)):
        expected = [run for run in everything if overlaps(run, since, until)]
        assert sorted(run.run_id for run in world.runs(since, until)) == sorted(run.run_id for run in expected)
    assert {run.job_name for run in world.runs(0, 2000, "prod/b")} == {"b"}


def test_a_run_that_ends_when_a_range_begins_overlaps_it(world):
    world.run("a", start=0.0, end=10.0)
    assert len(world.runs(10.0, 20.0)) == 1
    assert world.runs(10.001, 20.0) == []


# --- generated


PLAIN = JobPlan(name="a", project="p", interval=600, duration=60, steps=(StepPlan("x"), StepPlan("y")))


def lives(world, since=NOW - DAY, until=NOW):
    return list(world.runs(since, until))


def test_the_same_seed_makes_the_same_world():
    assert lives(GeneratedWorld(EVERY_PLAN, seed=1)) == lives(GeneratedWorld(EVERY_PLAN, seed=1))
    assert lives(GeneratedWorld(EVERY_PLAN, seed=1)) != lives(GeneratedWorld(EVERY_PLAN, seed=2))


def test_adjoining_ranges_have_every_run_of_the_whole():
    world = GeneratedWorld(EVERY_PLAN)
    whole = {run.run_id for run in lives(world)}
    parts = [
        run.run_id for hour in range(24) for run in world.runs(NOW - DAY + hour * 3600, NOW - DAY + (hour + 1) * 3600)
    ]
    assert set(parts) == whole


def test_a_range_has_the_runs_that_began_long_before_it():
    world = GeneratedWorld(EVERY_PLAN)
    remembered = [run for run in lives(world) if run.created > NOW - 7 * DAY]
    expected = {run.run_id for run in remembered if overlaps(run, NOW - 60, NOW)}
    assert expected <= {run.run_id for run in world.runs(NOW - 60, NOW)}
    assert min(run.created for run in world.runs(NOW - 60, NOW)) < NOW - DAY


def test_a_job_runs_once_in_every_interval():
    started = [run for run in lives(GeneratedWorld([PLAIN])) if run.created >= NOW - DAY]
    assert abs(len(started) - DAY / 600) <= 1


def test_speed_makes_runs_more_frequent_and_shorter():
    normal, fast = (lives(GeneratedWorld([PLAIN], speed=speed)) for speed in (1, 10))
    assert len(fast) == pytest.approx(len(normal) * 10, rel=0.02)
    longest = [max(run.end - run.start for run in runs) for runs in (normal, fast)]
    assert longest[1] == pytest.approx(longest[0] / 10, rel=0.1)


def test_a_run_can_be_made_again_from_its_id():
    world = GeneratedWorld(EVERY_PLAN, seed=3)
    for run in lives(world):
        assert len(run.run_id) == 64
        assert GeneratedWorld(EVERY_PLAN, seed=3).find(run.run_id, NOW) == run


@pytest.mark.parametrize("run_id", ["", "x", "0" * 64, "f" * 64, "not-hexadecimal-at-all"])
def test_an_id_that_no_run_has_finds_no_run(run_id):
    assert GeneratedWorld(EVERY_PLAN).find(run_id, NOW) is None


def test_runs_are_found_by_shorter_ids():
    world = GeneratedWorld(EVERY_PLAN, id_digits=32)
    run = lives(world)[0]
    assert len(run.run_id) == 32
    assert world.find(run.run_id, NOW) == run


def test_a_run_of_the_future_is_not_found_yet():
    world = GeneratedWorld([PLAIN])
    run = lives(world, NOW + 1000, NOW + 2000)[0]
    assert world.find(run.run_id, NOW) is None


def test_no_run_is_older_than_its_world():
    world = GeneratedWorld([PLAIN], birth=NOW - 3600)
    runs = lives(world, NOW - 7 * DAY)
    assert 5 <= len(runs) <= 6
    assert min(run.created for run in runs) >= NOW - 3600


def by_job(vendor, clock):
    found = {}
    for run in lives(demo_world(vendor, clock), NOW - 7 * DAY):
        found.setdefault(run.job_name, []).append(run)
    return found


def test_no_two_vendors_of_the_demo_have_a_job_in_common():
    names = [name for plans in PLANS.values() for name in {plan.name for plan in plans}]
    assert len(names) == len(set(names))
    assert all(3 <= len(plans) <= 5 for plans in PLANS.values())
    assert set(PLANS) == set(SIMULATORS)


def test_each_vendor_of_the_demo_has_its_own_problem(clock):
    snowplow, strait, workato = (by_job(vendor, clock) for vendor in ("snowplow", "strait", "workato"))
    assert {run.result for run in snowplow["marketing-costs"]} == {Result.FAILURE}
    assert {run.result for run in snowplow["attribution"]} == {Result.FAILURE, Result.SUCCESS}
    lengths = [run.end - run.start for run in snowplow["customer-360"] if run.result is Result.SUCCESS]
    assert max(lengths) > 4 * min(lengths)
    assert any(step.no_op for run in snowplow["webmodel"] for step in run.steps)
    assert None in {run.result for run in strait["warehouse-cleanup"]}
    assert min(run.start - run.created for run in strait["fraud-scores"]) > 600
    assert max(run.created for run in strait["partner-feed"]) < NOW - DAY
    assert Result.SKIP in {run.result for run in workato["leads-import"]}


def test_one_vendor_of_the_demo_is_healthy(clock):
    assert {run.result for runs in by_job("northflank", clock).values() for run in runs} == {Result.SUCCESS}


def test_a_recipe_of_the_demo_is_switched_off_soon_after_the_start(clock):
    world = demo_world("workato", clock, speed=60)
    assert all(job.enabled for job in world.jobs())
    clock.advance(60)
    assert [job.name for job in world.jobs() if not job.enabled] == ["invoice-sync"]
    assert world.runs(NOW + 50, NOW + 3600, "globex/invoice-sync") == []


def test_a_run_that_never_began_cannot_be_found_by_its_id():
    plan = JobPlan(name="a", project="prod", interval=60.0, duration=10.0, until=3600.0)
    endless = GeneratedWorld([msgspec.structs.replace(plan, until=math.inf)], birth=NOW - DAY)
    ids = {run.run_id for run in lives(endless, NOW - DAY)}
    world = GeneratedWorld([plan], birth=NOW - DAY)
    assert {run_id for run_id in ids if world.find(run_id, NOW)} == {run.run_id for run in lives(world, NOW - DAY)}


def test_most_of_the_demo_is_healthy(clock):
    runs = [run for vendor in PLANS for run in lives(demo_world(vendor, clock), NOW - 7 * DAY)]
    assert sum(run.result is Result.SUCCESS for run in runs) > 0.75 * len(runs)


def test_no_run_of_the_demo_ends_before_it_begins(clock):
    runs = [run for vendor in PLANS for run in lives(demo_world(vendor, clock, speed=600), NOW - 7 * DAY)]
    for run in runs:
        assert run.created <= run.start
        assert run.end is None or run.start <= run.end
        assert (run.end is None) == (run.result is None)
        assert all(step.end is None or run.end is None or step.end <= run.end for step in run.steps)


# --- the limit of requests


def test_a_fixed_window_reports_the_remaining_requests_and_starts_again(clock):
    clock.set(1000.0)
    window = FixedWindow(100.0, clock)
    quotas = [window.take(2) for _ in range(3)]
    assert [(quota.allowed, quota.remaining, quota.reset) for quota in quotas] == [
        (True, 1, 100.0), (True, 0, 100.0), (False, 0, 100.0),
    ]  # fmt: skip
    clock.advance(100)
    assert window.take(2).allowed
