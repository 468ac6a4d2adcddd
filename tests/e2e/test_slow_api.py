"""An API that does not answer affects neither scrapes nor other sources."""

import statistics
import time
from pathlib import Path

import pytest

from exporter.simulators.disruptions import Hang
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import LiveWorld, baseline, source, truth, write_config
from tests.e2e.processes import Daemon, eventually, free_port
from tests.e2e.scrapes import Scraper, counted, fetch, page

pytestmark = pytest.mark.e2e

TIMES_SLOWER = 5
"""Allowed factor between two medians on a busy machine; waiting for the API would take hundreds of times as long."""


def median_scrape(port: int) -> float:
    """Return the median seconds of a scrape."""
    taken = []
    for _ in range(40):
        begun = time.perf_counter()
        assert fetch(port)[0] == 200
        taken.append(time.perf_counter() - begun)
        time.sleep(0.02)
    return statistics.median(taken)


def test_a_hanging_api_slows_neither_scrapes_nor_other_sources(
    tmp_path: Path, simulator: SnowplowSimulator, world: LiveWorld
) -> None:
    with SnowplowSimulator(world) as other:
        sources = [source(simulator, timeout="30s"), source(other, "other")]
        settings = {"sources": sources, "state": {"path": str(tmp_path / "state.db")}, "metrics": {"zero_first": "0s"}}
        port = free_port()
        daemon = Daemon(write_config(tmp_path, settings), port)
        scraper = Scraper(port)
        scraper.start()
        assert eventually(lambda: counted(page(port), "live") and counted(page(port), "other"))
        well = median_scrape(port)

        simulator.disruptions.add(Hang())
        hanging = len(simulator.log.lines())
        assert eventually(lambda: len(simulator.log.lines()) > hanging)
        before = counted(page(port), "live")
        assert median_scrape(port) < TIMES_SLOWER * well
        world.rest()
        expected = truth(other, baseline(tmp_path / "state.db", "other"))
        assert eventually(lambda: counted(page(port), "other"), lambda seen: seen == expected) == expected
        assert counted(page(port), "live") == before, "it cannot know more"

        simulator.stop()  # ends servers that hang
        simulator.disruptions.clear()
        simulator.start()
        expected = truth(simulator, baseline(tmp_path / "state.db", "live"))
        assert eventually(lambda: counted(page(port), "live"), lambda seen: seen == expected) == expected
        scraper.stop()
        assert not scraper.falls
        assert daemon.terminate() == 0
