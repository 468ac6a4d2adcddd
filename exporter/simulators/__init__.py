"""Simulated vendors: real HTTP on loopback over a world whose truth can be asked for."""

from collections.abc import Mapping

from exporter.simulators.northflank import NorthflankSimulator
from exporter.simulators.server import Simulator
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.strait import StraitSimulator
from exporter.simulators.workato import WorkatoSimulator

SIMULATORS: Mapping[str, type[Simulator]] = {
    SnowplowSimulator.vendor: SnowplowSimulator,
    WorkatoSimulator.vendor: WorkatoSimulator,
    NorthflankSimulator.vendor: NorthflankSimulator,
    StraitSimulator.vendor: StraitSimulator,
}
"""Every simulated vendor by its word; each has `demo`, `start`, `stop`, `url` and `source_config`."""
