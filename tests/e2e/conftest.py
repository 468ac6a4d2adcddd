import multiprocessing
from collections.abc import Iterator

import pytest

from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import LiveWorld


@pytest.fixture(autouse=True)
def _no_daemon_outlives_its_test() -> Iterator[None]:
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


@pytest.fixture
def world() -> Iterator[LiveWorld]:
    world = LiveWorld(seed=4711).start()
    yield world
    world.stop()


@pytest.fixture
def simulator(world: LiveWorld) -> Iterator[SnowplowSimulator]:
    with SnowplowSimulator(world) as simulator:
        yield simulator
