import prometheus_client
import pytest

from exporter.exposition.exposition import Exposition
from exporter.metrics.zero_first import ZeroFirst


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def holds(clock):
    return ZeroFirst(120.0, clock)


@pytest.fixture
def exposition(holds):
    return Exposition(prometheus_client.CollectorRegistry(), holds)
