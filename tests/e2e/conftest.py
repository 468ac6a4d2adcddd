from collections.abc import Iterator

import pytest

from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.living import LivingWorld


@pytest.fixture
def world() -> Iterator[LivingWorld]:
    world = LivingWorld(seed=4711).start()
    yield world
    world.stop()


@pytest.fixture
def simulator(world: LivingWorld) -> Iterator[SnowplowSimulator]:
    with SnowplowSimulator(world) as simulator:
        yield simulator
