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
from tests.chaos.direct import Endpoints
from tests.chaos.quick import quick
from tests.chaos.scenario_harness import arguments_of
from tests.chaos.worlds import DenseWorld, Size, drawn
from tests.contract.harness import DAY, NOW

RUNS = 400
LIES = (
    (), (), (), (Stale(seconds=4000.0),), (Late(seconds=1500.0, share=0.3),), (LostEnd(share=0.1),),
    (Drop(share=0.3), Shuffle()), (Duplicate(share=0.5),),
)  # fmt: skip


class Both:
    """A simulator and its faster form, in the same world at the same times."""

    def __init__(self, word: str, world: DenseWorld) -> None:
        self.clock = Clock(NOW)
        kinds = (SIMULATORS[word], quick(word))
        self.simulators = [kind(world, self.clock, port=1, seed=7, **arguments_of(word)) for kind in kinds]
        self._endpoints = [Endpoints(simulator) for simulator in self.simulators]
        self.headers: Mapping[str, str] = {}

    def get(self, path: str, **query: object) -> httpx.Response:
        """Return the response of both, which must be equal."""
        url = f"http://127.0.0.1:1{path}?{urlencode(query)}"
        first, second = (self._answer(each, url) for each in self._endpoints)
        assert first.content == second.content, url
        assert first.status_code == second.status_code, url
        return second

    def _answer(self, endpoints: Endpoints, url: str) -> httpx.Response:
        seen, route = endpoints.requested(httpx.Request("GET", url, headers=self.headers))
        response = endpoints.answered(seen, route)
        return httpx.Response(response.status, headers=response.headers, content=response.body)

    def disrupt(self, disruptions: object) -> None:
        for simulator in self.simulators:
            simulator.disruptions.set(disruptions)  # type: ignore[arg-type]  # as they come


def timestamps(both: Both, world: DenseWorld):
    """Yield fifty times, each with other wrong answers; at some of them something happens."""
    dice = random.Random(5)
    for _ in range(50):
        run = dice.choice(world.all)
        both.clock.set(dice.choice((run.created, run.start, run.end or NOW, NOW + dice.uniform(0, 4) * DAY)))
        both.disrupt(dice.choice(LIES))
        yield dice, dice.choice(world.all)


def world_of(word: str) -> DenseWorld:
    return drawn(word, "quick", Size(begin=NOW, end=NOW + 4 * DAY, runs=RUNS))


def test_a_quick_northflank_answers_like_the_ordinary_simulator():
    world = world_of("northflank")
    both = Both("northflank", world)
    both.headers = {"authorization": "Bearer simulated-token"}
    for _, run in timestamps(both, world):
        jobs = f"/v1/projects/{run.project}/jobs/{run.job_name}/runs"
        cursor = {}
        for _ in range(3):
            answer = both.get(jobs, per_page=20, **cursor).json()
            if not answer["pagination"]["hasNextPage"]:
                break
            cursor = {"cursor": answer["pagination"]["cursor"]}
        both.get(f"{jobs}/{run.run_id}")


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/workflow-runs"])
def test_a_quick_strait_answers_like_the_ordinary_simulator(path):
    world = world_of("strait")
    both = Both("strait", world)
    both.headers = {"authorization": "Bearer strait_simulated"}
    words = ("", "", "queued", "executing", "pending", "running", "completed", "failed", "dead_letter", "delayed")
    for _, run in timestamps(both, world):
        both.get("/v1/workflows")
        both.get(f"{path}/{run.run_id}")
        for word in words:
            cursor = {"status": word} if word else {}
            for _ in range(3):
                answer = both.get(path, limit=20, **cursor).json()
                if not answer.get("has_more"):
                    break
                cursor["cursor"] = answer["next_cursor"]


def test_a_quick_workato_answers_like_the_ordinary_simulator():
    world = world_of("workato")
    both = Both("workato", world)
    simulator: Any = both.simulators[0]
    both.headers = {"authorization": f"Bearer {simulator.token}"}
    for dice, run in timestamps(both, world):
        root = f"/api/managed_users/E{run.project}/recipes"
        recipes = both.get(root, exclude_code="true").json()["result"]
        for recipe in recipes:
            for query in ({}, {"offset_job_id": run.run_id}, {"offset_job_id": run.run_id, "prev": "true"}):
                status = dice.choice(({}, {}, {"status": "pending"}, {"status": "failed"}))
                both.get(f"{root}/{recipe['id']}/jobs", **query, **status)
        both.get(f"{root}/{dice.choice(recipes)['id']}/jobs/{run.run_id}" if recipes else root)


def test_a_quick_snowplow_answers_like_the_ordinary_simulator():
    world = world_of("snowplow")
    both = Both("snowplow", world)
    root = "/api/msc/v1/organizations/" + ORGANIZATION
    simulator: Any = both.simulators[0]
    key = {"x-api-key-id": simulator.credentials.api_key_id, "x-api-key": "planted-snowplow-secret"}
    for dice, run in timestamps(both, world):
        both.headers = key
        token = both.get(f"{root}/credentials/v3/token").json()["accessToken"]
        both.headers = {"authorization": f"Bearer {token}"}
        both.get(f"{root}/jobs/v1/runs", **{"from": f"PT-{dice.randint(1, 90)}H", "to": "PT0S"})
        both.get(f"{root}/jobs/v1/runs/{run.run_id}")
