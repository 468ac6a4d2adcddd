import ssl
from collections.abc import Callable, Iterator

import httpx
import pytest

from exporter.simulators.clock import Clock
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.snowplow import SnowplowOptions, SnowplowSimulator

NOW = 1_700_000_000.0


class SignedIn:
    """A client of the simulated Snowplow with a token."""

    def __init__(self, simulator: SnowplowSimulator, tls: ssl.SSLContext) -> None:
        self.http = httpx.Client(base_url=simulator.url, timeout=5, verify=tls)
        self.root = f"/api/msc/v1/organizations/{simulator.organization_id}"
        self.runs_path = self.root + "/jobs/v1/runs"
        self.keys = {"X-API-Key-ID": simulator.credentials.api_key_id, "X-API-Key": simulator.credentials.api_key}
        self.sign_in()

    def sign_in(self) -> None:
        token = self.http.get(self.root + "/credentials/v3/token", headers=self.keys).json()["accessToken"]
        self.http.headers["Authorization"] = f"Bearer {token}"

    def window(self, start: str = "PT-96H", end: str = "PT0S") -> httpx.Response:
        return self.http.get(self.runs_path, params={"from": start, "to": end})

    def rows(self, start: str = "PT-96H", end: str = "PT0S") -> list[dict]:
        return self.window(start, end).raise_for_status().json()

    def run(self, run_id: str) -> httpx.Response:
        return self.http.get(f"{self.runs_path}/{run_id}")


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """Return a shared TLS context. It is not used, but creating one takes 40 ms per client."""
    return ssl.create_default_context()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def world(clock: Clock) -> ScriptedWorld:
    return ScriptedWorld(clock)


@pytest.fixture
def simulator(world: ScriptedWorld, clock: Clock) -> Iterator[SnowplowSimulator]:
    with SnowplowSimulator(world, clock) as simulator:
        yield simulator


@pytest.fixture
def snowplow(simulator: SnowplowSimulator, tls: ssl.SSLContext) -> Iterator[SignedIn]:
    client = SignedIn(simulator, tls)
    yield client
    client.http.close()


@pytest.fixture
def option(simulator: SnowplowSimulator) -> Callable[..., None]:
    """Replace options: `option(event_limit=10)`, `option(rows=SnowplowShape(...))`."""

    def replace(**fields: object) -> None:
        simulator.options = SnowplowOptions(**fields)  # type: ignore[arg-type]  # checked at use

    return replace
