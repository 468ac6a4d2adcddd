"""Killed at any instant, also inside a transaction: every ending is counted once, and no counter ever falls.

JOBRUN_TEST_KILLS sets the number of kills, for a longer test: JOBRUN_TEST_KILLS=5000 ./test --timeout=0 -k kills
"""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.living import LivingWorld, baseline, config, truth
from tests.e2e.pages import COUNTED, Scraper, counted, page
from tests.e2e.processes import Daemon, Trap, eventually, free_port

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("JOBRUN_TEST_KILLS", "200"))
"""Of both variants together."""

TRAPPED = 0.25
"""Which part of the kills comes from inside a transaction."""

LIVES = ((0.6, 0.08, 0.35), (0.3, 0.35, 1.0), (0.1, 1.2, 2.2))
"""Which part of the lives lasts how many seconds: most end in the first poll, some after a few."""

PATIENCE = 2.5
"""Seconds that a daemon has to reach the statement at which it kills itself."""


@pytest.fixture
def simulator() -> Iterator[SnowplowSimulator]:
    world = LivingWorld(seed=4711).start()
    with SnowplowSimulator(world) as simulator:
        yield simulator
    world.rest()


@pytest.mark.timeout(60 + KILLS)
@pytest.mark.parametrize("zero_first", [0, 1])
def test_kills_at_any_instant_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, simulator: SnowplowSimulator, zero_first: int
) -> None:
    config_file, port, notes = config(tmp_path, simulator, zero_first=f"{zero_first}s"), free_port(), tmp_path / "notes"
    scraper = Scraper(port)
    scraper.start()
    dice = random.Random(zero_first)
    for number in range(KILLS // 2):
        live_and_die(config_file, port, dice, trap(number, dice, notes))

    daemon = Daemon(config_file, port)
    simulator.world.rest()
    expected = truth(simulator, baseline(tmp_path / "state.db"))
    seen = eventually(lambda: counted(page(port), "living"), lambda counts: counts == expected)
    assert seen == expected
    time.sleep(2.5)  # two polls more change nothing
    assert counted(page(port), "living") == expected
    scraper.stop()

    assert daemon.terminate() == 0
    assert not scraper.falls
    assert scraper.scrapes > KILLS / 4
    assert len(notes.read_text().splitlines()) >= KILLS / 2 * TRAPPED * 0.8, "too few kills inside a transaction"
    if zero_first:
        late = {series: number for series, number in scraper.first.items() if number and series.startswith(tuple(COUNTED))}
        assert not late, "series that did not begin at 0: their first events are lost to increase()"


def trap(number: int, dice: random.Random, notes: Path) -> Trap | None:
    """Sometimes a trap; the first lives are ended while the tables are made."""
    if number < 3:
        return Trap(1 + 2 * number, notes)
    return Trap(dice.randint(1, 40), notes) if dice.random() < TRAPPED else None


def live_and_die(config_file: Path, port: int, dice: random.Random, trap: Trap | None) -> None:
    daemon = Daemon(config_file, port, connect=trap or sqlite3.connect)
    if trap is None:
        (_, least, most) = dice.choices(LIVES, [share for share, _, _ in LIVES])[0]
        time.sleep(dice.uniform(least, most))
    else:
        daemon.wait(PATIENCE)
    daemon.kill()
    assert daemon.process.exitcode == -9, daemon.log
