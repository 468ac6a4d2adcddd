"""Simulated vendors: real HTTP on loopback, over a simulated world with a known ground truth."""

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
"""Simulators by the name of their vendor."""
