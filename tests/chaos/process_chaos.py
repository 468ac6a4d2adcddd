"""Plays a scenario of real processes: daemons that are killed at random times while other disruptions happen."""

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
from tests.chaos.disk import copy_files
from tests.chaos.disruptions import at_endpoints
from tests.chaos.scenario import ScenarioOutcome
from tests.chaos.scenario_harness import sign_in_secrets
from tests.e2e.live_world import LiveWorld, baseline, source, truth, write_config
from tests.e2e.processes import Daemon, KillAtStatement, eventually, free_port
from tests.e2e.scrapes import Scraper, Series, counted, fetch, page
from tests.e2e.vendor_traits import simulators

OVERLAP = "60s"
"""Every wrong answer ends sooner."""

NEAR_BASELINE = 60.0
"""Seconds around the baseline. A finding lists the runs that ended in them."""

CATCH_UP = 90.0
"""Seconds in which a daemon has read everything. Some jobs are read only every tenth poll."""

Counts = Mapping[str, Counter[Series]]
"""Counts by source. Each source is named like its vendor."""

API_DISRUPTIONS: Mapping[str, Disruption] = {
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
"""What an API may do wrong while a process runs."""


class ProcessChaos:
    """One daemon after another with the same state, each killed, and the scraper of all.

    Attributes:
        disruption_counts: How often each disruption happened.
        findings: The discrepancies.
        scrapes: Number of pages of the scrapers that have stopped.
    """

    def __init__(self, seed: str, folder: Path, vendors: Sequence[Simulator]) -> None:
        self.state = folder / "state.db"
        self.scraper = Scraper(free_port())
        self.disruption_counts: Counter[str] = Counter()
        self.findings: list[str] = []
        self.scrapes = 0
        self._folder = folder
        self._vendors = vendors
        self._rng = random.Random(seed)
        self._kill_log = folder / "kills"
        self._state_copy: Path | None = None

    def run_and_kill(self) -> None:
        """Run one process with disruptions and kill it. Then copy or restore the state at times."""
        rng = self._rng
        with self._disrupt_api():
            kill = KillAtStatement(rng.randint(1, 30), self._kill_log) if rng.random() < 0.3 else None
            daemon = self.start(kill)
            if kill is not None:
                self.disruption_counts["kill -9 inside a transaction"] += daemon.wait(1.5)
            else:
                time.sleep(rng.choice((0.1, 0.3, 0.6, 1.2)) * rng.random())
                self._reload_or_limit(daemon)
            daemon.kill()
            self.disruption_counts["kill -9"] += 1
        self._copy_or_restore()

    def start(self, connect: Callable[..., sqlite3.Connection] | None = None) -> Daemon:
        """Start a daemon. Its sources are in random order, and sometimes one is missing."""
        return Daemon(self._config(), self.scraper.port, connect=connect or sqlite3.connect)

    def _config(self, *, all_sources: bool = False) -> Path:
        vendors = self._rng.sample(list(self._vendors), len(self._vendors))
        if not all_sources and self._rng.random() < 0.15:
            vendors.pop()
            self.disruption_counts["source removed and added"] += 1
        blocks = [source(each, each.vendor, overlap=OVERLAP) for each in vendors]
        metrics = {"zero_first": "0s"}
        return write_config(self._folder, {"sources": blocks, "state": {"path": str(self.state)}, "metrics": metrics})

    @contextmanager
    def _disrupt_api(self) -> Iterator[None]:
        """Disrupt one API at times, until the context ends."""
        if self._rng.random() < 0.5:
            yield
            return
        each = self._rng.choice(self._vendors)
        if self._rng.random() < 0.2:
            with self._disrupt_connection(each):
                yield
            return
        name = self._rng.choice(list(API_DISRUPTIONS))
        self.disruption_counts[name] += 1
        each.disruptions.set(at_endpoints(each.vendor, API_DISRUPTIONS[name], self._rng.choice((1.0, 0.3))))  # type: ignore[arg-type]  # one of the kinds that there are
        yield
        each.disruptions.clear()

    @contextmanager
    def _disrupt_connection(self, each: Simulator) -> Iterator[None]:
        """Revoke the tokens of an API, or refuse connections until the context ends."""
        if isinstance(each, SnowplowSimulator):
            self.disruption_counts["token revoked"] += 1
            each.expire_tokens()
            yield
            return
        self.disruption_counts["connections refused"] += 1
        each.stop()
        yield
        each.start()

    def _reload_or_limit(self, daemon: Daemon) -> None:
        """At times, reload or let the process exceed its limit of file sizes."""
        draw = self._rng.random()
        if draw < 0.15:
            self.disruption_counts["reload"] += 1
            self._config()
            with suppress(OSError):
                fetch(self.scraper.port, "/-/reload", method="POST")
        elif draw < 0.3 and daemon.process.pid:
            self.disruption_counts["files may not grow"] += 1
            with suppress(ProcessLookupError):
                self._limit_file_size(daemon.process.pid)

    def _limit_file_size(self, pid: int) -> None:
        limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, limit[1]))
        time.sleep(self._rng.uniform(0.1, 0.8))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)

    def _copy_or_restore(self) -> None:
        """At times, copy the state or restore an older copy."""
        draw = self._rng.random()
        if draw < 0.03 and self.state.exists():
            self._state_copy = copy_files(self.state, self._folder / f"copy-{self.disruption_counts['copy made']}")
            self.disruption_counts["copy made"] += 1
        elif draw < 0.04 and self._state_copy is not None:
            for part in self.state.parent.glob(self.state.name + "*"):
                part.unlink()
            for part in self._state_copy.parent.iterdir():
                shutil.copyfile(part, self.state.parent / part.name)
            self.disruption_counts["older copy put back"] += 1
            self._replace_scraper()

    def _replace_scraper(self) -> None:
        """Add the falls that the scraper has seen to the findings. Start a new one, which knows no earlier values."""
        before, self.scraper = self.scraper, Scraper(self.scraper.port)
        before.stop()
        self.scrapes += before.scrapes
        self.findings += [f"{series} fell from {high:g} to {low:g}" for series, high, low in before.falls]
        self.scraper.start()

    def counted(self) -> Counts:
        text = page(self.scraper.port)
        return {each.vendor: counted(text, each.vendor) for each in self._vendors}

    def truth(self) -> Counts:
        return {each.vendor: truth(each, baseline(self.state, each.vendor)) for each in self._vendors}

    def settle(self, world: LiveWorld) -> int:
        """Run a last process without disruptions and compare its counts. Return the number of compared runs."""
        daemon = Daemon(self._config(all_sources=True), self.scraper.port)
        world.rest()
        eventually(lambda: all(self.counted().values()), seconds=CATCH_UP)
        expected = self.truth()
        seen = self._final_counts(expected)
        for each in self._vendors:
            wanted, found = expected[each.vendor], seen[each.vendor]
            different = [series for series in sorted(wanted | found) if found[series] != wanted[series]]
            self.findings += [
                f"{each.vendor}: {series} is {found[series]}, not {wanted[series]}" for series in different
            ]
            if different:
                self.findings += self._recorded_runs(each)
        if daemon.terminate() != 0:
            self.findings.append("the last daemon did not exit with 0")
        self._replace_scraper()
        self.scraper.stop()
        self._search_secrets(daemon.log)
        runs = "jobrun_runs_total"
        return sum(count for counts in expected.values() for series, count in counts.items() if series[0] == runs)

    def _final_counts(self, expected: Counts) -> Counts:
        """Return the counts once they are as expected, or have not changed for `CATCH_UP` seconds."""
        seen: Counts = {}
        while seen != expected:
            before, seen = seen, eventually(self.counted, lambda counts, last=seen: counts != last, CATCH_UP)  # type: ignore[misc]  # bound at once
            if seen == before:
                break
        return seen

    def _recorded_runs(self, each: Simulator) -> Iterator[str]:
        """Yield the baseline, and the recorded runs that differ from the truth or ended near the baseline."""
        since = baseline(self.state, each.vendor)
        ends = {run.run_id: run.end or 0.0 for run in each.truth().endings}
        with closing(Store(self.state, read_only=True)) as store:
            store.load()
            rows = store.runs(each.vendor, list(ends))
        yield f"{each.vendor}: the baseline is {since}"
        for run_id, end in ends.items():
            row = rows.get(run_id)
            counted = row is not None and row.mark is CountState.COUNTED
            if counted != (end > since) or abs(end - since) < NEAR_BASELINE:
                yield f"{each.vendor}: run {run_id} ended at {end}, recorded as {row}"

    def _search_secrets(self, log: str) -> None:
        """Add findings of secrets and customer data in the log or the state, and of tracebacks in the log."""
        secrets = [MARK, *(secret for each in self._vendors for secret in sign_in_secrets(each))]
        files = [path.read_bytes() for path in self._folder.glob("state.db*")]
        for secret in secrets:
            if secret in log or any(secret.encode() in content for content in files):
                self.findings.append(f"the logs or the state hold {secret[:4]}…")
        if "Traceback" in log:
            self.findings.append("the logs hold a traceback: " + log[log.index("Traceback") :][:500])


def run_process_chaos(seed: str, kills: int) -> ScenarioOutcome:
    """Play the scenario of a seed with a number of kills. Return its outcome."""
    started = time.perf_counter()
    world = LiveWorld(seed=random.Random(seed).getrandbits(32)).start()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, ExitStack() as running:
        vendors = [running.enter_context(simulator) for simulator in simulators(world)]
        chaos = ProcessChaos(seed, Path(folder), vendors)
        chaos.scraper.start()
        for _ in range(kills):
            chaos.run_and_kill()
        runs = chaos.settle(world)
        scrapes = chaos.scrapes
    return ScenarioOutcome(
        seed=seed,
        layer="real",
        seconds=round(time.perf_counter() - started, 1),
        runs=runs,
        kills=kills,
        scrapes=scrapes,
        disruptions=dict(chaos.disruption_counts),
        discrepancies=len(chaos.findings),
        findings=chaos.findings[:200],
    )
