"""The number of requests of a poll: the fewest that keep the promises."""

import json
from types import SimpleNamespace
from typing import Any

from exporter.simulators.disruptions import Status
from exporter.simulators.world import SimJob
from exporter.sources.workato.customers import CustomerList

MINUTE = 60.0


def ended(world, clock, number, job="a"):
    """Return this many completed runs, a second apart, the newest an hour ago."""
    return [world.run(job, start=clock() - 3600.0 - place, duration=1.0) for place in reversed(range(number))]


def test_an_idle_poll_of_100_customers_is_one_request_each(world, watching, option):
    option(jobs_per_minute=0, recipes_per_minute=0, users_per_minute=0)
    for customer in range(100):
        for recipe in range(10):
            world.add_job(
                SimJob(job_id=f"{customer}/{recipe}", name=f"recipe {recipe}", project=f"customer {customer}")
            )
    watch = watching()
    watch.poll()
    assert watch.requests() == {"users": 2, "recipes": 100, "jobs": 1000}
    watch.poll()
    assert watch.requests() == {"recipes": 100}
    watch.poll(after=10 * MINUTE)
    assert watch.requests() == {"users": 2, "recipes": 100}
    assert watch.watermark() == watch.clock() - MINUTE


def test_customers_are_listed_every_tenth_poll_also_if_polls_are_frequent(world, watching):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod"))
    watch = watching(poll_interval="10s")
    lists = []
    for _ in range(31):
        watch.poll(after=10.0)
        lists.append(watch.requests().get("users", 0))
    assert sum(lists) == 4
    assert [place for place, requests in enumerate(lists) if requests] == [0, 10, 20, 30]


class ManyCustomers:
    """Lists 50 full pages of managed users."""

    def __init__(self):
        self.pages = []

    def get(self, _path, *, endpoint, params):
        assert endpoint == "/managed_users"
        self.pages.append(params["page"])
        first = 100 * (params["page"] - 1)
        return json.dumps({"result": [{"id": first + row} for row in range(100 if first < 5000 else 0)]}).encode()


def test_managed_users_are_listed_at_most_36_times_per_minute():
    client: Any = ManyCustomers()
    settings: Any = SimpleNamespace(poll_interval=60.0, mode="embedded")
    customers = CustomerList(settings, client)
    assert not customers.refresh(1000.0)
    assert not customers.refresh(1059.0)
    assert client.pages == list(range(1, 37))
    assert customers.refresh(1060.0)
    assert (client.pages, len(customers.known)) == (list(range(1, 52)), 5000)


def test_recipes_are_listed_100_per_page(world, watch):
    for recipe in range(250):
        world.add_job(SimJob(job_id=f"prod/{recipe}", name=f"recipe {recipe}", project="prod"))
    watch.poll()
    watch.poll()
    assert watch.requests() == {"recipes": 3}


def test_the_first_poll_reads_one_page_per_recipe_and_requests_older_open_jobs(world, watch, clock):
    ended(world, clock, 80)
    watch.poll()
    assert watch.requests() == {"users": 1, "recipes": 1, "jobs": 2}
    assert watch.counts() == {}


def test_a_completion_costs_one_request(world, watch, clock):
    ended(world, clock, 30)
    watch.poll()
    world.run("a", start=clock() + 10, duration=5.0)
    watch.poll()
    assert watch.requests() == {"recipes": 1, "jobs": 1}
    assert watch.counts() == {"success": 1}
    watch.poll()
    assert watch.requests() == {"recipes": 1}


def test_pages_are_read_until_the_increase_of_the_counts_is_found(world, watch, clock):
    ended(world, clock, 30)
    watch.poll()
    for place in range(60):
        world.run("a", start=clock() + place / 2, duration=1.0)
    watch.poll()
    assert watch.requests() == {"recipes": 1, "jobs": 3}
    assert watch.counts() == {"success": 60}


def test_after_a_page_of_new_jobs_the_next_one_is_read_for_open_jobs(world, watch, clock):
    ended(world, clock, 30)
    watch.poll()
    world.run("a", run_id="slow", start=clock() + 1, duration=600.0)
    for place in range(25):
        world.run("a", start=clock() + 2 + place, duration=1.0)
    watch.poll()
    assert watch.requests() == {"recipes": 1, "jobs": 2}
    assert watch.counts() == {"success": 25}
    assert watch.open() == ["slow"]


def test_a_short_page_does_not_end_a_search(world, watch, clock, option):
    option(page_size=4)
    ended(world, clock, 10)
    watch.poll()
    for place in range(10):
        world.run("a", start=clock() + place, duration=1.0)
    watch.poll()
    assert watch.counts() == {"success": 10}


def test_an_open_job_on_the_first_page_costs_that_page(world, watch, clock):
    world.run("a", run_id="slow", start=clock() + 10, duration=600.0)
    watch.poll()
    for _ in range(3):
        watch.poll()
        assert watch.requests() == {"recipes": 1, "jobs": 1}
    assert watch.open() == ["slow"]


def test_an_open_job_beyond_the_first_page_is_found_among_open_jobs_or_by_id(world, watch, clock):
    world.run("a", run_id="slow", start=clock() + 10, duration=600.0)
    watch.poll()
    for place in range(40):
        world.run("a", start=clock() + 5 + place, duration=1.0)
    watch.poll()
    watch.poll()
    assert watch.requests() == {"recipes": 1, "jobs": 2}
    assert watch.open() == ["slow"]
    watch.poll(after=700.0)
    assert watch.requests() == {"users": 1, "recipes": 1, "jobs": 2, "job": 1}
    assert watch.open() == []
    assert watch.counts() == {"success": 41}
    watch.poll()
    assert watch.requests() == {"recipes": 1}


def test_the_code_of_recipes_is_never_requested(world, watch, clock, simulator):
    ended(world, clock, 1)
    watch.poll()
    queries = [line.query for line in simulator.log.lines("recipes")]
    assert queries == ["page=1&per_page=100&exclude_code=true"]


def test_an_excluded_recipe_costs_no_request(world, watching, clock):
    ended(world, clock, 1, job="a")
    ended(world, clock, 1, job="b")
    watch = watching(jobs={"include": ["a"]})
    watch.poll()
    assert watch.requests() == {"users": 1, "recipes": 1, "jobs": 2}


def test_only_lines_of_failed_jobs_are_requested(world, watch, clock):
    ended(world, clock, 1)
    watch.poll()
    world.run("a", start=clock() + 1, duration=2.0, steps=["load", "send"])
    world.run("a", start=clock() + 2, duration=2.0, steps=["load", "send"], result="failure")
    watch.poll()
    assert watch.requests() == {"recipes": 1, "jobs": 1, "job": 1}
    assert watch.counts(family="jobrun_steps_total") == {
        "0 connector/load success": 1,
        "1 connector/send failure": 1,
    }


def test_the_default_budget_never_hits_a_rate_limit(world, watching, option, simulator):
    option(mode="developer")
    for recipe in range(60):
        world.run(f"recipe {recipe}", start=world._clock() - 100, duration=1.0)
    watch = watching(requests_per_minute=36)
    statuses = set()
    for _ in range(8):
        watch.poll()
        statuses |= {status for _, status in simulator.log.counts()}
    assert statuses == {200}
    assert watch.watermark() == watch.clock() - MINUTE


def test_a_rate_limit_without_retry_after_is_waited_for_a_minute(world, watch, simulator, clock):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod"))
    watch.poll()
    simulator.disruptions.add(Status(code=429, endpoint="recipes", count=1))
    assert watch.poll() == "error"
    assert simulator.log.counts() == {("recipes", 429): 1}
    refused = clock()
    assert watch.poll(after=0.0) == "success"
    assert clock() - refused >= MINUTE


def test_a_rate_limit_that_is_hit_anyway_delays_but_loses_nothing(world, watching, option, clock):
    option(mode="developer", jobs_per_minute=5)
    for recipe in range(12):
        world.run(f"recipe {recipe}", start=clock() - 100, duration=1.0)
    watch = watching()
    outcomes = [watch.poll() for _ in range(12)]
    assert "error" in outcomes
    assert outcomes[-1] == "success"
    assert watch.watermark() == clock() - MINUTE
