"""A daemon whose local clock is wrong or jumps: real processes under libfaketime, APIs whose clock is right."""

import operator
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import LiveWorld, baseline, source, truth, write_config
from tests.e2e.processes import Command, eventually, free_port, require_tool
from tests.e2e.scrapes import Scraper, counted, page, value

pytestmark = pytest.mark.e2e

HOUR, DAY = 3600, 86400


class FalseClock:
    """A local clock that is wrong by a number of seconds, which can change while a process reads it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        found = subprocess.run(
            [require_tool("faketime"), "-f", "+0", "env"], capture_output=True, text=True, check=True
        )
        library = next(line for line in found.stdout.splitlines() if line.startswith("LD_PRELOAD="))
        self.environ = {
            "LD_PRELOAD": library.removeprefix("LD_PRELOAD=").replace("libfaketime.so", "libfaketimeMT.so"),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Set the error of the clock."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+}s\n")
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> FalseClock:
    return FalseClock(tmp_path)


@pytest.fixture
def run(tmp_path: Path, simulator: SnowplowSimulator, clock: FalseClock) -> Callable[[], tuple[Command, Scraper]]:
    """Start a daemon with the wrong clock, and its scraper; the caller must stop both."""

    def started() -> tuple[Command, Scraper]:
        port = free_port()
        settings = {
            "sources": [source(simulator, poll_interval="4s")],  # libfaketime slows everything down
            "state": {"path": str(tmp_path / "state.db")},
            "metrics": {"zero_first": "0s"},
        }
        arguments = (f"--config.file={write_config(tmp_path, settings)}", f"--web.listen-address=127.0.0.1:{port}")
        command = Command(tmp_path, "run", *arguments, environ=clock.environ)
        scraper = Scraper(port, pause=0.2)
        scraper.start()
        return command, scraper

    return started


def all_counted_once(port: int, simulator: SnowplowSimulator, state: Path) -> bool:
    expected = truth(simulator, baseline(state))
    return eventually(lambda: counted(page(port), "live"), lambda seen: seen == expected, 60) == expected


@pytest.mark.parametrize(
    "jumps",
    [(HOUR, 0), (-2 * HOUR, 0), (10 * DAY, -10 * DAY, 0)],
    ids=["an hour ahead and back", "two hours behind and back", "ten days ahead, ten behind, and back"],
)
def test_a_clock_that_jumps_loses_no_run_and_counts_none_twice(  # noqa: PLR0917  # a fixture list is not an interface
    jumps: tuple[int, ...],
    tmp_path: Path,
    simulator: SnowplowSimulator,
    world: LiveWorld,
    clock: FalseClock,
    run: Callable[[], tuple[Command, Scraper]],
) -> None:
    command, scraper = run()
    try:
        assert eventually(lambda: sum(counted(page(scraper.port), "live").values()) > 3), command.output
        for seconds in jumps:
            before = sum(counted(page(scraper.port), "live").values())
            clock.set(seconds)
            assert eventually(
                lambda: sum(counted(page(scraper.port), "live").values()),
                partial(operator.lt, before + 6),
                60,
            ), f"nothing is counted any more with a clock that is {seconds} s off"
        world.rest()
        assert all_counted_once(scraper.port, simulator, tmp_path / "state.db"), command.output
        assert value(scraper.port, 'jobrun_source_unobserved_seconds_total{source="live"}') == 0
        assert not value(scraper.port, 'jobrun_source_runs_fetched_total{source="live",disposition="late"}')
    finally:
        scraper.stop()
        command.end()
    assert not scraper.falls


@pytest.mark.parametrize("seconds", [DAY, -DAY], ids=["a day ahead", "a day behind"])
def test_a_restart_with_a_wrong_clock_changes_nothing(  # noqa: PLR0917  # a fixture list is not an interface
    seconds: int,
    tmp_path: Path,
    simulator: SnowplowSimulator,
    world: LiveWorld,
    clock: FalseClock,
    run: Callable[[], tuple[Command, Scraper]],
) -> None:
    first, before = run()
    assert eventually(lambda: sum(counted(page(before.port), "live").values()) > 6), first.output
    before.stop()
    first.end()

    clock.set(seconds)
    second, after = run()
    try:
        world.rest()
        assert all_counted_once(after.port, simulator, tmp_path / "state.db"), second.output
        assert value(after.port, 'jobrun_source_unobserved_seconds_total{source="live"}') == 0
    finally:
        after.stop()
        second.end()
    assert not before.falls
    assert not after.falls
