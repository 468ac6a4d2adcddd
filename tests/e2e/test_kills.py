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
from tests.e2e.live_world import LiveWorld, baseline, source, truth, written
from tests.e2e.processes import Daemon, Trap, eventually, free_port
from tests.e2e.scrapes import COUNTED, Scraper, Series, counted, fetch, page
from tests.e2e.vendor_settings import simulators

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("JOBRUN_TEST_KILLS", "200"))
"""Kills of both variants together."""

LAST = KILLS * 9 // 20
"""Number of the life of a variant after which no new runs start."""

FIRST_LONG = 3
"""The first life that is long enough for a poll of every source; earlier ones create tables."""

TRAPPED, TRAPPED_IN_RELEASE = 0.25, 0.1
"""Fraction of kills inside a transaction, and inside a transaction that exposes new series."""

LIVES = ((0.5, 0.06, 0.4), (0.4, 0.4, 1.0), (0.1, 1.2, 1.8))
"""Fractions of the lives and their seconds. Most end during the first polls, some after a few polls."""

USUAL = 1.0
"""Seconds in which a daemon polls all sources. On a slower machine lives are proportionally longer."""

PATIENCE = 1.5
"""Seconds in which a daemon must reach the statement at which it kills itself."""

QUIET = 60.0
"""Seconds after which everything has been read: some jobs are read every tenth poll only."""

OVERLAP = "30s"
"""Short, so that a watermark that is ahead loses something, and polls leave time for steps."""

Counts = Mapping[str, Counter[Series]]
"""Counts by source, which is named like its vendor."""


class KilledDaemons:
    """A configuration whose daemons are killed, and its scraper."""

    def __init__(self, folder: Path, vendors: Sequence[Simulator], zero_first: str) -> None:
        self.state = folder / "state.db"
        self.port = free_port()
        self.notes = folder / "notes"
        self.scraper = Scraper(self.port)
        self.scraper.start()
        self._vendors = vendors
        self._config_files = list(rotations(folder, self.state, vendors, zero_first))
        self._dice = random.Random(zero_first)
        self.pace = 1.0

    def die_often(self, numbers: range) -> None:
        for number in numbers:
            if number == FIRST_LONG:
                self._live_until_all_is_polled()
            else:
                self._live_and_die(trap(number, self._dice, self.notes))

    def _live_until_all_is_polled(self) -> None:
        begun = time.monotonic()
        daemon = self.start()
        assert eventually(self._all_is_polled, seconds=60), daemon.log
        self.pace = max(1.0, (time.monotonic() - begun) / USUAL)
        daemon.kill()

    def _all_is_polled(self) -> bool:
        try:
            return fetch(self.port, "/-/ready")[0] == 200
        except OSError:
            return False

    def _live_and_die(self, trap: Trap | None) -> None:
        daemon = self.start(connect=trap or sqlite3.connect)
        if trap is None:
            (_, least, most) = self._dice.choices(LIVES, [share for share, _, _ in LIVES])[0]
            time.sleep(self._dice.uniform(least, most) * self.pace)
        else:
            daemon.wait(PATIENCE * self.pace)
        daemon.kill()
        assert daemon.process.exitcode == -signal.SIGKILL, daemon.log

    def start(self, connect: Connect = sqlite3.connect) -> Daemon:
        return Daemon(self._dice.choice(self._config_files), self.port, connect=connect)

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
    at_once, held = victims = [
        KilledDaemons(made(tmp_path / hold), vendors, zero_first=hold) for hold in ("0s", "500ms")
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(KilledDaemons.die_often, victims, [range(LAST)] * 2))
        world.stop()  # what a kill loses now, no later run makes good
        list(pool.map(KilledDaemons.die_often, victims, [range(LAST, KILLS // 2)] * 2))

    daemons = [victim.start() for victim in victims]
    world.rest()
    for victim in victims:
        expected = victim.truth()
        assert all(expected.values())
        seen = eventually(victim.counted, lambda counts: counts == expected, QUIET * victim.pace)  # noqa: B023  # at once
        assert not differences(seen, expected)
    time.sleep(2.5)  # two polls more change nothing
    for victim, daemon in zip(victims, daemons, strict=True):
        assert not differences(victim.counted(), victim.truth())
        assert daemon.terminate() == 0, daemon.log
        victim.scraper.stop()
        assert not victim.scraper.falls
        assert victim.scraper.scrapes > KILLS / 4
    kills_inside = sum(len(victim.notes.read_text().splitlines()) for victim in victims)
    assert kills_inside >= KILLS / 10, "too few kills inside a transaction"
    late = {series for series, number in held.scraper.first.items() if number and series.startswith(tuple(COUNTED))}
    assert not late, "series that did not begin at 0: increase() does not see their first events"
    assert any(number for number in at_once.scraper.first.values()), "without a hold some begin with their value"


def trap(number: int, dice: random.Random, notes: Path) -> Trap | None:
    """Return a trap, or None; the first lives end while tables are created."""
    if number < FIRST_LONG:
        return Trap(1 + 2 * number, notes)
    if dice.random() < TRAPPED_IN_RELEASE:
        return Trap(dice.randint(1, 4), notes, thread="heart")
    return Trap(dice.randint(1, 30), notes) if dice.random() < TRAPPED else None


def rotations(folder: Path, state: Path, vendors: Sequence[Simulator], zero_first: str) -> Iterator[Path]:
    """Return variants of one configuration, each with another vendor first: it is polled before the others."""
    blocks = deque(source(each, each.vendor, overlap=OVERLAP) for each in vendors)
    for each in vendors:
        settings = {"sources": list(blocks), "state": {"path": str(state)}, "metrics": {"zero_first": zero_first}}
        yield written(made(folder / each.vendor), settings)
        blocks.rotate(-1)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def differences(seen: Counts, expected: Counts) -> list[tuple[str, Series, int, int]]:
    """Return differences: the source, the series, and both values."""
    return [
        (name, series, seen[name][series], counts[series])
        for name, counts in expected.items()
        for series in sorted(counts | seen[name])
        if seen[name][series] != counts[series]
    ]
