"""Pages that people open use only a part of the request budget."""

import httpx
import pytest

from exporter.client.budget import Budget, for_page
from exporter.client.client import Client, Environment
from exporter.client.signin import TokenAuth
from exporter.errors import RateLimitedError
from exporter.model import Run, State
from exporter.queries.errors import QueryError
from exporter.queries.vendor import VendorQueries


class Steps:
    """A source that only has steps, and needs one request for the steps of a run."""

    def __init__(self, client):
        self.client = client

    def steps(self, run, *, patience):
        self.client.get(f"/runs/{run.run_id}", endpoint="/runs/{id}", patience=patience)
        return ()


def run(number):
    return Run(run_id=str(number), job_id="j", state=State.EXECUTING)


@pytest.fixture
def replicas():
    """Number of replicas, which a test may change."""
    return [1]


@pytest.fixture
def client(moved, replicas):
    environment = Environment(clock=moved.clock, monotonic=moved.monotonic, sleep=moved.sleep)
    budget = Budget(60.0, monotonic=moved.monotonic, sleep=moved.sleep, processes=lambda: replicas[0])
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    return Client("https://api.example.com", httpx.Auth(), budget, environment=environment, transport=transport)


@pytest.fixture
def asking(moved):
    asking = VendorQueries(moved.monotonic)
    yield asking
    asking.close()


def opened(asking, client, numbers):
    """Return how many pages of these runs show steps, and why the others do not."""
    shown, refusals = 0, set()
    for number in numbers:
        try:
            asking.steps("s", Steps(client), run(number))
        except QueryError as error:
            refusals.add(str(error))
        else:
            shown += 1
    return shown, refusals


def test_a_crawler_of_run_pages_gets_a_quarter_of_the_budget_and_polls_do_not_wait(moved, asking, client):
    shown, refusals = opened(asking, client, range(1000))
    assert shown == 15
    assert refusals == {"no request may be sent for 60 s: pages have used their share of the request budget"}
    for _ in range(45):
        client.get("/runs", endpoint="/runs")
    assert moved.slept == []


def test_replicas_divide_the_quarter_of_the_budget_among_them(moved, asking, client, replicas):
    for number, most in ((2, 7), (3, 5), (100, 1), (1, 15)):
        replicas[0] = number
        assert opened(asking, client, range(1000 * number, 1000 * number + 100))[0] == most
        moved.sleep(60.0)


def test_a_page_opened_again_sends_no_request(asking, client):
    assert opened(asking, client, [7] * 1000) == (1000, set())


def token_request():
    return httpx.Request("POST", "https://api.example.com/token")


def test_a_sign_in_for_a_user_never_waits_because_polls_would_wait_for_its_token(moved):
    budget = Budget(600.0, monotonic=moved.monotonic, sleep=moved.sleep)
    budget.acquire(moved.now)
    budget.spread(100, 40, 60.0)
    environment = Environment(clock=moved.clock, monotonic=moved.monotonic, sleep=moved.sleep)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"access_token": "word"}))
    auth = TokenAuth("/token", token_request, refusals={}, other_refusal="", clock=moved.clock)
    client = Client("https://api.example.com", auth, budget, environment=environment, transport=transport)
    with for_page(), pytest.raises(RateLimitedError):
        client.get("/runs/1", endpoint="/runs/{id}", patience=3.0)
    assert moved.slept == []
    client.get("/runs", endpoint="/runs")
