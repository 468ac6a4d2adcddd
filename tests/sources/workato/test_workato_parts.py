"""A customer, recipe or job that cannot be read does not affect others, and lists that never end are refused."""

import pytest

from exporter.simulators.disruptions import Garbage, Html, Reset, Status
from exporter.simulators.workato_rows import number_of
from exporter.simulators.world import SimJob

MINUTE = 60.0
HARMS = {
    "500": lambda path: Status(code=500, path=path),
    "403": lambda path: Status(code=403, path=path),
    "401": lambda path: Status(code=401, path=path),
    "garbage": lambda path: Garbage(path=path),
    "html": lambda path: Html(path=path),
    "reset": lambda path: Reset(path=path),
}
PROJECTS = ("one", "two", "three", "four")


def jobs_of(name, project="prod"):
    return f"/recipes/{number_of(f'{project}/{name}')}/jobs"


def customer(project):
    return f"/managed_users/{number_of(project)}/"


def start(world, clock, names=("a", "b"), project="prod"):
    """Add one run of each recipe that starts and ends soon."""
    for name in names:
        world.run(name, project=project, start=clock() + 1, duration=5.0)


@pytest.fixture
def two(world, watch, clock):
    """Return a customer with two recipes that were both read."""
    for name in ("a", "b"):
        world.run(name, start=clock() - 100, duration=1.0)
    watch.poll()
    return watch


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_an_unreadable_recipe_affects_only_itself(world, two, clock, simulator, harm):
    simulator.disruptions.add(harm(jobs_of("a")))
    for _ in range(5):
        start(world, clock)
        two.poll()
    assert two.counts("b") == {"success": 5}
    assert two.counts("a") == {}
    assert "recipe" in two.poller.status.error
    assert all(scope.readable for scope in two.ledger.source("w").scopes.values())
    simulator.disruptions.clear()
    assert two.poll() == "success"
    assert two.counts("a") == {"success": 5}


@pytest.mark.parametrize("harm", ["500", "403", "garbage"])
def test_a_recipe_holds_the_watermark_for_a_quarter_of_an_hour_and_is_caught_up_later(
    world, two, clock, simulator, harm
):
    simulator.disruptions.add(HARMS[harm](jobs_of("a")))
    start(world, clock)
    begun = two.watermark()
    two.poll(times=15)
    assert two.watermark() == begun
    two.poll(times=5)
    assert two.watermark() == pytest.approx(clock() - MINUTE, abs=5)
    for _ in range(4):
        start(world, clock)
        two.poll(after=3600.0)
        two.restart()
    assert two.counts("b") == {"success": 5}
    simulator.disruptions.clear()
    assert two.poll() == "success"
    assert two.counts("a") == {"success": 5}
    assert two.counts("b") == {"success": 5}
    assert [name for name in two.ledger.source("w").checkpoints if name.startswith("unread/")] == []
    assert two.source_count("jobrun_source_unobserved_seconds_total") == 0


def test_a_recipe_never_readable_before_counts_from_the_first_poll(world, watch, clock, simulator):
    simulator.disruptions.add(Status(code=500, path=jobs_of("a")))
    for name in ("a", "b"):
        world.run(name, start=clock() - 100, duration=1.0)
    watch.poll()
    start(world, clock)
    watch.poll(times=30)
    assert watch.watermark() is not None
    watch.poll(after=2 * 86400.0)
    start(world, clock)
    simulator.disruptions.clear()
    watch.poll(times=2)
    assert watch.counts("a") == {"success": 2}
    assert watch.counts("b") == {"success": 2}


def test_a_customer_without_any_readable_recipe_is_unreadable(world, two, clock, simulator):
    simulator.disruptions.add(Status(code=403, endpoint="jobs"))
    start(world, clock)
    assert two.poll() != "success"
    assert not any(scope.readable for scope in two.ledger.source("w").scopes.values())
    simulator.disruptions.clear()
    assert two.poll() == "success"
    assert two.counted() == 2


@pytest.fixture
def four(world, watch, clock):
    """Return four customers with one recipe each, all of them read."""
    for project in PROJECTS:
        world.run("a", project=project, start=clock() - 100, duration=1.0)
    watch.poll()
    return watch


@pytest.mark.parametrize("harm", ["500", "garbage", "reset"])
@pytest.mark.parametrize("count", [1, 3])
def test_unreadable_customers_affect_no_other_and_are_caught_up(world, four, simulator, harm, count):
    clock = four.clock
    simulator.disruptions.add(*(HARMS[harm](customer(project)) for project in PROJECTS[:count]))
    begun = four.watermark()
    for number in range(30):
        for project in PROJECTS:
            start(world, clock, ["a"], project)
        four.poll()
        if number < 14:
            assert four.watermark() == begun
    scopes = four.ledger.source("w").scopes
    unread = {str(number_of(project)) for project in PROJECTS[:count]}
    assert {scope for scope, state in scopes.items() if not state.readable} == unread
    assert all(scopes[scope].watermark == begun for scope in unread)
    assert four.watermark() == pytest.approx(clock() - MINUTE, abs=5)
    assert sum(four.counts("a", project).get("success", 0) for project in PROJECTS[count:]) == 30 * (4 - count)
    four.restart()
    simulator.disruptions.clear()
    four.poll(times=3)
    assert all(state.readable for state in four.ledger.source("w").scopes.values())
    assert {project: four.counts("a", project) for project in PROJECTS} == {key: {"success": 30} for key in PROJECTS}


def test_a_source_is_down_while_a_readable_customer_does_not_answer_and_not_for_longer_than_15_minutes(four, simulator):
    def up():
        assert four.poll() == "partial"
        return four.poller.status.up

    simulator.disruptions.add(HARMS["500"](customer(PROJECTS[0])))
    assert [up() for _ in range(14)] == [False] * 14
    assert four.poller.status.last_success == four.clock(), "the others answered"
    four.poll(times=2)
    assert [up() for _ in range(5)] == [True] * 5
    simulator.disruptions.clear()
    assert four.poll() == "success"
    assert four.poller.status.up


def test_a_customer_that_does_not_answer_does_not_make_the_round_longer(four, simulator):
    simulator.disruptions.add(HARMS["500"](customer(PROJECTS[0])))
    four.poll(times=20)
    assert four.source.seconds_per_round() == 0


def test_a_recipe_that_does_not_answer_does_not_make_the_source_down(world, two, clock, simulator):
    simulator.disruptions.add(HARMS["500"](jobs_of("a")))
    start(world, clock)
    assert two.poll() == "partial"
    assert two.poller.status.up


def test_an_api_without_any_valid_response_makes_no_customer_unreadable(four, simulator):
    simulator.disruptions.add(Status(code=500))
    begun = four.watermark()
    assert four.poll(times=40) == "error"
    assert four.watermark() == begun
    assert all(state.readable for state in four.ledger.source("w").scopes.values())


def test_an_open_job_unreadable_by_id_affects_only_itself(world, two, clock, simulator, option):
    option(page_size=2)
    for name in ("stuck", "fine"):
        world.run("a", run_id=name, start=clock() + 1, duration=200.0)
    two.poll()
    for number in range(5):
        world.run("a", start=clock() + 10 + number, duration=1.0)
    two.poll()
    simulator.disruptions.add(Status(code=500, path="/jobs/stuck"))
    two.poll(times=8)
    simulator.disruptions.clear()
    two.poll(times=2)
    assert two.counts("a") == {"success": 7}


def test_a_hanging_part_is_paused_longer_than_a_failing_one(world, two, clock, simulator):
    inner = two.source._api.get
    requested = []

    def slow(scope, endpoint, *args, **parts):
        if parts.get("recipe") == str(number_of("prod/a")):
            requested.append(clock())
            clock.advance(30.0)
        return inner(scope, endpoint, *args, **parts)

    two.source._api.get = slow
    simulator.disruptions.add(Status(code=500, path=jobs_of("a")))
    start(world, clock)
    for _ in range(60):
        two.poll()
    assert len(requested) == pytest.approx(60 * 60 / 660, abs=2)
    assert two.counts("b") == {"success": 1}


def crowd(world, size=150):
    for number in range(size):
        world.add_job(SimJob(job_id=f"prod/{number}", name=f"r{number}", project="prod"))


def test_a_list_of_recipes_that_ignores_the_page_is_refused(world, watch, option):
    crowd(world)
    option(ignored=frozenset({"page"}))
    assert watch.poll() == "error"
    assert "GET /recipes: the list does not end" in watch.poller.status.error
    assert watch.requests()["recipes"] == 2
    assert watch.ledger.jobs_of("w") == []
    option()
    assert watch.poll() == "success"
    assert len(watch.ledger.jobs_of("w")) == 150


def test_a_list_of_customers_that_ignores_the_page_is_refused(world, watch, option):
    for number in range(150):
        world.add_job(SimJob(job_id=f"{number}/r", name="r", project=str(number)))
    option(ignored=frozenset({"page"}))
    assert watch.poll() == "error"
    assert "GET /managed_users: the list does not end" in watch.poller.status.error
    option()
    watch.poll(times=2)
    assert len(watch.ledger.source("w").scopes) == 150


@pytest.mark.parametrize("filtered", [False, True], ids=["all jobs", "open jobs"])
def test_a_list_of_jobs_that_ignores_the_offset_is_refused(world, two, clock, option, filtered):
    option(ignored=frozenset({"offset_job_id"}))
    for number in range(60):
        world.run("a", start=clock() + 1 + number / 10, duration=1e5 if filtered else 1.0)
    start(world, clock, ["b"])
    two.poll(after=100.0, times=3)
    assert "recipes/{recipe}/jobs: the list does not end" in two.poller.status.error
    assert two.counts("b") == {"success": 1}
    option()
    two.poll(times=2)
    assert two.counts("a") == ({} if filtered else {"success": 60})


def test_a_page_of_customers_with_an_invalid_row_is_followed_by_the_next(world, watch, simulator):
    for number in range(150):
        world.add_job(SimJob(job_id=f"{number}/r", name="r", project=str(number)))
    inner = simulator._users

    def spoiled(request):
        response = inner(request)
        return type(response)(body=response.body.replace(b'{"id":', b'{"di":', 1))

    simulator._users = spoiled
    simulator.stop()
    simulator.start()
    watch.poll(times=2)
    assert len(watch.ledger.source("w").scopes) == 148


@pytest.mark.parametrize("harm", ["500", "404", "garbage"])
def test_a_job_that_cannot_be_read_by_id_at_the_baseline_keeps_no_other_from_being_counted(
    world, watch, clock, simulator, harm
):
    clock.advance(0.5)
    run = world.run("a", start=clock() - 30, duration=29.8)
    harms = {**HARMS, "404": lambda path: Status(code=404, path=path)}
    simulator.disruptions.add(harms[harm](f"/jobs/{run.run_id}"))
    watch.poll(after=0.0)
    start(world, clock, names=("a",))
    watch.poll()
    assert watch.counts("a") == {"success": 1}
    assert watch.poll() == "success"
