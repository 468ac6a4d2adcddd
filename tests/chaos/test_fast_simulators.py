"""The faster simulators answer every request as the ordinary ones do, byte for byte."""

import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from exporter.simulators import SIMULATORS
from exporter.simulators.clock import Clock
from exporter.simulators.disruptions import Drop, Duplicate, Late, LostEnd, Shuffle, Stale
from exporter.simulators.snowplow import ORGANIZATION
from tests.chaos.fast_simulators import fast_simulator
from tests.chaos.in_memory_network import Endpoint
from tests.chaos.scenario_harness import simulator_arguments
from tests.chaos.worlds import DenseWorld, WorldSize, generate_world
from tests.contract.harness import DAY, NOW

RUNS = 400
DISRUPTIONS = (
    (), (), (), (Stale(seconds=4000.0),), (Late(seconds=1500.0, share=0.3),), (LostEnd(share=0.1),),
    (Drop(share=0.3), Shuffle()), (Duplicate(share=0.5),),
)  # fmt: skip


class Both:
    """The ordinary and the faster simulator of a vendor, with the same world and clock."""

    def __init__(self, vendor: str, world: DenseWorld) -> None:
        self.clock = Clock(NOW)
        kinds = (SIMULATORS[vendor], fast_simulator(vendor))
        self.simulators = [kind(world, self.clock, port=1, seed=7, **simulator_arguments(vendor)) for kind in kinds]
        self._endpoints = [Endpoint(simulator) for simulator in self.simulators]
        self.headers: Mapping[str, str] = {}

    def get(self, path: str, **query: object) -> httpx.Response:
        """Request a path from both. Return the response, which must be the same."""
        url = f"http://127.0.0.1:1{path}?{urlencode(query)}"
        first, second = (self._respond(each, url) for each in self._endpoints)
        assert first.content == second.content, url
        assert first.status_code == second.status_code, url
        return second

    def _respond(self, endpoint: Endpoint, url: str) -> httpx.Response:
        simulated, route = endpoint.parse(httpx.Request("GET", url, headers=self.headers))
        response = endpoint.respond(simulated, route)
        return httpx.Response(response.status, headers=response.headers, content=response.body)

    def disrupt(self, disruptions: object) -> None:
        for simulator in self.simulators:
            simulator.disruptions.set(disruptions)  # type: ignore[arg-type]  # as they come


def visit_times(both: Both, world: DenseWorld):
    """Move the clock to fifty times, each with other disruptions. At each time, yield random numbers and a run."""
    rng = random.Random(5)
    for _ in range(50):
        run = rng.choice(world.all)
        both.clock.set(rng.choice((run.created, run.start, run.end or NOW, NOW + rng.uniform(0, 4) * DAY)))
        both.disrupt(rng.choice(DISRUPTIONS))
        yield rng, rng.choice(world.all)


def world_of(vendor: str) -> DenseWorld:
    return generate_world(vendor, "quick", WorldSize(begin=NOW, end=NOW + 4 * DAY, runs=RUNS))


def test_a_fast_northflank_answers_like_the_ordinary_simulator():
    world = world_of("northflank")
    both = Both("northflank", world)
    both.headers = {"authorization": "Bearer simulated-token"}
    for _, run in visit_times(both, world):
        jobs = f"/v1/projects/{run.project}/jobs/{run.job_name}/runs"
        cursor = {}
        for _ in range(3):
            answer = both.get(jobs, per_page=20, **cursor).json()
            if not answer["pagination"]["hasNextPage"]:
                break
            cursor = {"cursor": answer["pagination"]["cursor"]}
        both.get(f"{jobs}/{run.run_id}")


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/workflow-runs"])
def test_a_fast_strait_answers_like_the_ordinary_simulator(path):
    world = world_of("strait")
    both = Both("strait", world)
    both.headers = {"authorization": "Bearer strait_simulated"}
    statuses = ("", "", "queued", "executing", "pending", "running", "completed", "failed", "dead_letter", "delayed")
    for _, run in visit_times(both, world):
        both.get("/v1/workflows")
        both.get(f"{path}/{run.run_id}")
        for status in statuses:
            cursor = {"status": status} if status else {}
            for _ in range(3):
                answer = both.get(path, limit=20, **cursor).json()
                if not answer.get("has_more"):
                    break
                cursor["cursor"] = answer["next_cursor"]


def test_a_fast_workato_answers_like_the_ordinary_simulator():
    world = world_of("workato")
    both = Both("workato", world)
    simulator: Any = both.simulators[0]
    both.headers = {"authorization": f"Bearer {simulator.token}"}
    for rng, run in visit_times(both, world):
        root = f"/api/managed_users/E{run.project}/recipes"
        recipes = both.get(root, exclude_code="true").json()["result"]
        for recipe in recipes:
            for query in ({}, {"offset_job_id": run.run_id}, {"offset_job_id": run.run_id, "prev": "true"}):
                status = rng.choice(({}, {}, {"status": "pending"}, {"status": "failed"}))
                both.get(f"{root}/{recipe['id']}/jobs", **query, **status)
        both.get(f"{root}/{rng.choice(recipes)['id']}/jobs/{run.run_id}" if recipes else root)


def test_a_fast_snowplow_answers_like_the_ordinary_simulator():
    world = world_of("snowplow")
    both = Both("snowplow", world)
    root = "/api/msc/v1/organizations/" + ORGANIZATION
    simulator: Any = both.simulators[0]
    key = {"x-api-key-id": simulator.credentials.api_key_id, "x-api-key": "planted-snowplow-secret"}
    for rng, run in visit_times(both, world):
        both.headers = key
        token = both.get(f"{root}/credentials/v3/token").json()["accessToken"]
        both.headers = {"authorization": f"Bearer {token}"}
        both.get(f"{root}/jobs/v1/runs", **{"from": f"PT-{rng.randint(1, 90)}H", "to": "PT0S"})
        both.get(f"{root}/jobs/v1/runs/{run.run_id}")
