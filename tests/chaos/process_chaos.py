"""Real processes, real time, real sockets: daemons that are killed at random while everything else goes wrong."""

import random
import resource
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from exporter.counting.classify import CountState
from exporter.simulators.disruptions import (
    Disruption,
    Drop,
    Duplicate,
    Garbage,
    Half,
    Html,
    Reset,
    Shuffle,
    Slow,
    Stale,
    Status,
)
from exporter.simulators.server import Simulator
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.world import MARK
from exporter.state.store import Store
from tests.chaos.crashable import copied
from tests.chaos.scenario import ScenarioOutcome
from tests.chaos.scenario_harness import secrets_of
from tests.chaos.troubles import at
from tests.e2e.live_world import LiveWorld, baseline, source, truth, write_config
from tests.e2e.processes import Daemon, KillAtStatement, eventually, free_port
from tests.e2e.scrapes import Scraper, Series, counted, fetch, page
from tests.e2e.vendor_traits import simulators

OVERLAP = "60s"
"""Seconds. Every wrong answer ends sooner."""

NEAR = 60.0
"""Seconds around the baseline. Runs that ended in them are listed with a discrepancy."""

QUIET = 90.0
"""Seconds after which an uncounted run is lost: some jobs are read every tenth poll only."""

Counts = Mapping[str, Counter[Series]]

DISRUPTIONS: Mapping[str, Disruption] = {
    "5xx": Status(code=503),
    "401": Status(code=401, count=2),
    "429 with Retry-After": Status(code=429, retry_after=1.0),
    "wrong shapes": Garbage(),
    "login pages": Html(),
    "half answers": Half(),
    "reset": Reset(),
    "slow answers": Slow(chunk=4096, pause=0.05),
    "stale rows": Stale(seconds=3.0),
    "rows missing": Drop(share=0.4),
    "empty lists with 200": Drop(share=1.0),
    "rows twice": Duplicate(),
    "rows out of order": Shuffle(),
}
"""What the APIs do wrong during one process."""


class ProcessChaos:
    """One configuration, four vendors, and one short-lived daemon after another."""

    def __init__(self, seed: str, folder: Path, vendors: Sequence[Simulator]) -> None:
        self.state = folder / "state.db"
        self.scraper = Scraper(free_port())
        self.tally: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.scrapes = 0
        self._folder = folder
        self._vendors = vendors
        self._rng = random.Random(seed)
        self._notes = folder / "notes"
        self._copy: Path | None = None

    def live_and_die(self) -> None:
        """Run one process: disruptions at its start and during its life, and kill -9 at its end."""
        rng = self._rng
        with self._trouble():
            trap = KillAtStatement(rng.randint(1, 30), self._notes) if rng.random() < 0.3 else None
            daemon = self.start(trap)
            if trap is not None:
                self.tally["kill -9 inside a transaction"] += daemon.wait(1.5)
            else:
                time.sleep(rng.choice((0.1, 0.3, 0.6, 1.2)) * rng.random())
                self._disturb(daemon)
            daemon.kill()
            self.tally["kill -9"] += 1
        self._replace()

    def start(self, connect: Callable[..., sqlite3.Connection] | None = None) -> Daemon:
        """Start a daemon with its sources in random order. Sometimes one is missing."""
        return Daemon(self._config(), self.scraper.port, connect=connect or sqlite3.connect)

    def _config(self, *, whole: bool = False) -> Path:
        vendors = self._rng.sample(list(self._vendors), len(self._vendors))
        if not whole and self._rng.random() < 0.15:
            vendors.pop()
            self.tally["source removed and added"] += 1
        blocks = [source(each, each.vendor, overlap=OVERLAP) for each in vendors]
        metrics = {"zero_first": "0s"}
        return write_config(self._folder, {"sources": blocks, "state": {"path": str(self.state)}, "metrics": metrics})

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Disrupt an API, or none, for a while."""
        if self._rng.random() < 0.5:
            yield
            return
        each = self._rng.choice(self._vendors)
        if self._rng.random() < 0.2:
            with self._unusual(each):
                yield
            return
        name = self._rng.choice(list(DISRUPTIONS))
        self.tally[name] += 1
        each.disruptions.set(at(each.vendor, DISRUPTIONS[name], self._rng.choice((1.0, 0.3))))  # type: ignore[arg-type]  # of the kinds that there are
        yield
        each.disruptions.clear()

    @contextmanager
    def _unusual(self, each: Simulator) -> Iterator[None]:
        if isinstance(each, SnowplowSimulator):
            self.tally["token revoked"] += 1
            each.expire_tokens()
            yield
            return
        self.tally["connections refused"] += 1
        each.stop()
        yield
        each.start()

    def _disturb(self, daemon: Daemon) -> None:
        """Reload at times, or keep files from growing."""
        draw = self._rng.random()
        if draw < 0.15:
            self.tally["reload"] += 1
            self._config()
            with suppress(OSError):
                fetch(self.scraper.port, "/-/reload", method="POST")
        elif draw < 0.3 and daemon.process.pid:
            self.tally["files may not grow"] += 1
            with suppress(ProcessLookupError):
                self._limited(daemon.process.pid)

    def _limited(self, pid: int) -> None:
        limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, limit[1]))
        time.sleep(self._rng.uniform(0.1, 0.8))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)

    def _replace(self) -> None:
        """Copy the state at times, or restore a copy."""
        draw = self._rng.random()
        if draw < 0.03 and self.state.exists():
            self._copy = copied(self.state, self._folder / f"copy-{self.tally['copy made']}")
            self.tally["copy made"] += 1
        elif draw < 0.04 and self._copy is not None:
            for part in self.state.parent.glob(self.state.name + "*"):
                part.unlink()
            for part in self._copy.parent.iterdir():
                shutil.copyfile(part, self.state.parent / part.name)
            self.tally["older copy put back"] += 1
            self._rescrape()

    def _rescrape(self) -> None:
        """Start a new scraper: counters may fall when an older copy is restored, and only then."""
        before, self.scraper = self.scraper, Scraper(self.scraper.port)
        before.stop()
        self.scrapes += before.scrapes
        self.wrong += [f"{series} fell from {high:g} to {low:g}" for series, high, low in before.falls]
        self.scraper.start()

    def counted(self) -> Counts:
        text = page(self.scraper.port)
        return {each.vendor: counted(text, each.vendor) for each in self._vendors}

    def truth(self) -> Counts:
        return {each.vendor: truth(each, baseline(self.state, each.vendor)) for each in self._vendors}

    def settle(self, world: LiveWorld) -> int:
        """Run a last process without disruptions, which must catch up. Return the number of compared runs."""
        daemon = Daemon(self._config(whole=True), self.scraper.port)
        world.rest()
        eventually(lambda: all(self.counted().values()), seconds=QUIET)
        expected = self.truth()
        seen = self._at_rest(expected)
        for each in self._vendors:
            counts, shown = expected[each.vendor], seen[each.vendor]
            different = [series for series in sorted(counts | shown) if shown[series] != counts[series]]
            self.wrong += [f"{each.vendor}: {series} is {shown[series]}, not {counts[series]}" for series in different]
            if different:
                self.wrong += self._rows(each)
        if daemon.terminate() != 0:
            self.wrong.append("the last daemon did not exit with 0")
        self._rescrape()
        self.scraper.stop()
        self._search(daemon.log)
        runs = "jobrun_runs_total"
        return sum(count for counts in expected.values() for series, count in counts.items() if series[0] == runs)

    def _at_rest(self, expected: Counts) -> Counts:
        """Return the counts once they are as expected, or have not changed for long: the machine may be slow."""
        seen: Counts = {}
        while seen != expected:
            before, seen = seen, eventually(self.counted, lambda counts, last=seen: counts != last, QUIET)  # type: ignore[misc]  # bound at once
            if seen == before:
                break
        return seen

    def _rows(self, each: Simulator) -> Iterator[str]:
        """Describe the records of a vendor's runs that differ from the truth or ended near the baseline."""
        since = baseline(self.state, each.vendor)
        ends = {run.run_id: run.end or 0.0 for run in each.truth().endings}
        with closing(Store(self.state, read_only=True)) as store:
            store.load()
            rows = store.runs(each.vendor, list(ends))
        yield f"{each.vendor}: the baseline is {since}"
        for run_id, end in ends.items():
            row = rows.get(run_id)
            counted = row is not None and row.mark is CountState.COUNTED
            if counted != (end > since) or abs(end - since) < NEAR:
                yield f"{each.vendor}: run {run_id} ended at {end}, recorded as {row}"

    def _search(self, log: str) -> None:
        """Find secrets, customer data and tracebacks."""
        secrets = [MARK, *(word for each in self._vendors for word in secrets_of(each))]
        files = [path.read_bytes() for path in self._folder.glob("state.db*")]
        for secret in secrets:
            if secret in log or any(secret.encode() in content for content in files):
                self.wrong.append(f"the logs or the state hold {secret[:4]}…")
        if "Traceback" in log:
            self.wrong.append("the logs hold a traceback: " + log[log.index("Traceback") :][:500])


def run_process_chaos(seed: str, kills: int) -> ScenarioOutcome:
    """Play a scenario of real daemons with a number of kills; return its outcome."""
    begun = time.perf_counter()
    world = LiveWorld(seed=random.Random(seed).getrandbits(32)).start()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, ExitStack() as running:
        vendors = [running.enter_context(simulator) for simulator in simulators(world)]
        chaos = ProcessChaos(seed, Path(folder), vendors)
        chaos.scraper.start()
        for _ in range(kills):
            chaos.live_and_die()
        runs = chaos.settle(world)
        scrapes = chaos.scrapes
    return ScenarioOutcome(
        seed=seed,
        layer="real",
        seconds=round(time.perf_counter() - begun, 1),
        runs=runs,
        kills=kills,
        scrapes=scrapes,
        troubles=dict(chaos.tally),
        discrepancies=len(chaos.wrong),
        findings=chaos.wrong[:200],
    )
