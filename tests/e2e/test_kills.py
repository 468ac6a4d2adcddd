"""Kills at any time, also inside a transaction: every completed run is counted once, and no counter ever falls.

All simulated vendors are sources of one configuration, so that each kill hits all of them.

JOBRUN_TEST_KILLS sets the number of kills, for a longer test: JOBRUN_TEST_KILLS=5000 ./test tests/e2e/test_kills.py
"""

import os
import random
import signal
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter.simulators.server import Simulator
from exporter.state.store import Connect
from tests.e2e.live_world import LiveWorld, baseline, source, truth, write_config
from tests.e2e.processes import Daemon, KillAtStatement, eventually, free_port
from tests.e2e.scrapes import COUNTED, Scraper, Series, counted, fetch, page
from tests.e2e.vendor_traits import simulators

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("JOBRUN_TEST_KILLS", "200"))
"""Kills of both variants together."""

LAST_WITH_NEW_RUNS = KILLS * 9 // 20
"""Number of processes of a variant during which new runs start."""

FIRST_LONG = 3
"""Number of the first process that polls every source. Earlier ones are killed while they create tables."""

IN_TRANSACTION, IN_EXPOSING_TRANSACTION = 0.25, 0.1
"""Fractions of kills in any transaction, and in a transaction that exposes new series."""

LIFETIMES = ((0.5, 0.06, 0.4), (0.4, 0.4, 1.0), (0.1, 1.2, 1.8))
"""Fraction of the processes, and their shortest and longest lifetime in seconds. Most end during the first polls."""

USUAL_START = 1.0
"""Seconds in which a daemon polls all sources. On a slower machine all lifetimes are proportionally longer."""

PATIENCE = 1.5
"""Seconds in which a daemon must reach the statement at which it kills itself."""

CATCH_UP = 60.0
"""Seconds in which a daemon has read everything. Some jobs are read only every tenth poll."""

OVERLAP = "30s"
"""Short, so that a watermark that is too late loses runs, and polls leave time for steps."""

Counts = Mapping[str, Counter[Series]]
"""Counts by source. Each source is named like its vendor."""


class KilledDaemons:
    """One daemon after another with the same state, each killed, and the scraper of all."""

    def __init__(self, folder: Path, vendors: Sequence[Simulator], zero_first: str) -> None:
        self.state = folder / "state.db"
        self.port = free_port()
        self.kill_log = folder / "kills"
        self.scraper = Scraper(self.port)
        self.scraper.start()
        self._vendors = vendors
        self._config_files = list(rotated_configs(folder, self.state, vendors, zero_first))
        self._rng = random.Random(zero_first)
        self.pace = 1.0

    def start_and_kill(self, numbers: range) -> None:
        for number in numbers:
            if number == FIRST_LONG:
                self._poll_all_and_kill()
            else:
                self._run_and_kill(choose_kill(number, self._rng, self.kill_log))

    def _poll_all_and_kill(self) -> None:
        begun = time.monotonic()
        daemon = self.start()
        assert eventually(self._all_polled, seconds=60), daemon.log
        self.pace = max(1.0, (time.monotonic() - begun) / USUAL_START)
        daemon.kill()

    def _all_polled(self) -> bool:
        try:
            return fetch(self.port, "/-/ready")[0] == 200
        except OSError:
            return False

    def _run_and_kill(self, kill: KillAtStatement | None) -> None:
        daemon = self.start(connect=kill or sqlite3.connect)
        if kill is None:
            (_, least, most) = self._rng.choices(LIFETIMES, [share for share, _, _ in LIFETIMES])[0]
            time.sleep(self._rng.uniform(least, most) * self.pace)
        else:
            daemon.wait(PATIENCE * self.pace)
        daemon.kill()
        assert daemon.process.exitcode == -signal.SIGKILL, daemon.log

    def start(self, connect: Connect = sqlite3.connect) -> Daemon:
        return Daemon(self._rng.choice(self._config_files), self.port, connect=connect)

    def counted(self) -> Counts:
        text = page(self.port)
        return {each.vendor: counted(text, each.vendor) for each in self._vendors}

    def truth(self) -> Counts:
        return {each.vendor: truth(each, baseline(self.state, each.vendor)) for each in self._vendors}


@pytest.fixture
def vendors(world: LiveWorld) -> Iterator[Sequence[Simulator]]:
    with ExitStack() as running:
        yield [running.enter_context(simulator) for simulator in simulators(world)]


@pytest.mark.timeout(120 + KILLS)
def test_kills_at_any_time_neither_lose_nor_double_a_run(
    tmp_path: Path, vendors: Sequence[Simulator], world: LiveWorld
) -> None:
    immediate, zero_first = victims = [
        KilledDaemons(make_folder(tmp_path / duration), vendors, zero_first=duration) for duration in ("0s", "500ms")
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(KilledDaemons.start_and_kill, victims, [range(LAST_WITH_NEW_RUNS)] * 2))
        world.stop()  # the next kills lose runs for good if they lose any: no newer run hides it
        list(pool.map(KilledDaemons.start_and_kill, victims, [range(LAST_WITH_NEW_RUNS, KILLS // 2)] * 2))

    daemons = [victim.start() for victim in victims]
    world.rest()
    for victim in victims:
        expected = victim.truth()
        assert all(expected.values())
        seen = eventually(victim.counted, lambda counts: counts == expected, CATCH_UP * victim.pace)  # noqa: B023  # at once
        assert not differences(seen, expected)
    time.sleep(2.5)  # two polls more change nothing
    for victim, daemon in zip(victims, daemons, strict=True):
        assert not differences(victim.counted(), victim.truth())
        assert daemon.terminate() == 0, daemon.log
        victim.scraper.stop()
        assert not victim.scraper.falls
        assert victim.scraper.scrapes > KILLS / 4
    kills_inside = sum(len(victim.kill_log.read_text().splitlines()) for victim in victims)
    assert kills_inside >= KILLS / 10, "too few kills inside a transaction"
    first = zero_first.scraper.first
    late = {series for series, number in first.items() if number and series.startswith(tuple(COUNTED))}
    assert not late, "series that did not begin at 0: increase() does not see their first events"
    assert any(immediate.scraper.first.values()), "without zero-first some series begin with their value"


def choose_kill(number: int, rng: random.Random, kill_log: Path) -> KillAtStatement | None:
    """Return at which statement the process is killed; None for a kill at a random time."""
    if number < FIRST_LONG:
        return KillAtStatement(1 + 2 * number, kill_log)  # while it creates tables
    if rng.random() < IN_EXPOSING_TRANSACTION:
        return KillAtStatement(rng.randint(1, 4), kill_log, thread="heart")
    return KillAtStatement(rng.randint(1, 30), kill_log) if rng.random() < IN_TRANSACTION else None


def rotated_configs(folder: Path, state: Path, vendors: Sequence[Simulator], zero_first: str) -> Iterator[Path]:
    """Yield config files that differ in the order of their sources. The first source is polled first."""
    blocks = deque(source(each, each.vendor, overlap=OVERLAP) for each in vendors)
    for each in vendors:
        settings = {"sources": list(blocks), "state": {"path": str(state)}, "metrics": {"zero_first": zero_first}}
        yield write_config(make_folder(folder / each.vendor), settings)
        blocks.rotate(-1)


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def differences(seen: Counts, expected: Counts) -> list[tuple[str, Series, int, int]]:
    """Return each wrong value: its source and series, the value seen and the expected one."""
    return [
        (name, series, seen[name][series], counts[series])
        for name, counts in expected.items()
        for series in sorted(counts | seen[name])
        if seen[name][series] != counts[series]
    ]
