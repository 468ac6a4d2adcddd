"""A simulated exporter that polls four simulated vendors, with one clock that the scenario moves."""

import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from exporter import logs
from exporter.simulators import SIMULATORS
from exporter.simulators.clock import Clock
from exporter.simulators.server import Simulator
from exporter.simulators.snowplow_sign_in import SnowplowCredentials
from exporter.simulators.world import MARK
from tests.chaos.crash_injector import CrashPoint, Killed
from tests.chaos.disk import Disk, copy_files
from tests.chaos.fast_simulators import fast_simulator
from tests.chaos.ground_truth import GroundTruth
from tests.chaos.in_memory_network import TIMEOUT, InMemoryNetwork
from tests.chaos.page_audit import UNBOUNDED, Findings, PageAuditor
from tests.chaos.renamed_job import EXCLUDED_PATTERN
from tests.chaos.simulated_process import LedgerFactory, ProcessEnvironment, SimulatedProcess
from tests.chaos.worlds import WorldSize, generate_world
from tests.contract.harness import DAY, HOUR, MINUTE, NOW, Offset
from tests.e2e.vendor_traits import traits_of

TOKEN = "eyJhbGciOi"
"""Prefix of every token that a simulated sign-in issues."""


NORTHFLANK_RUNS_PER_DAY = 900
"""Maximum for Northflank. Its windows do not overlap, so the newest 100 runs of a job must still contain the runs
that a wrong answer omitted."""


class ScenarioPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed chooses for a scenario.

    Attributes:
        seed: Seed of all random numbers.
        days: Length of the scenario.
        runs: Runs per vendor.
        poll_interval, overlap, lookback, max_run_age: Settings of every source, in seconds.
        zero_first: Whether new series start at 0.
        steps: The setting `steps` of every source that has it.
        sweep: Seconds between two sweeps, of every source that has them.
        max_series: The setting `metrics.max_series`.
    """

    seed: str
    days: float
    runs: int
    poll_interval: float
    overlap: float
    lookback: float
    max_run_age: float
    zero_first: bool
    steps: str
    sweep: float
    max_series: int = UNBOUNDED

    @property
    def bounded(self) -> bool:
        """Return whether jobs may fold into `__other__`, so that only sums can be compared."""
        return self.max_series < UNBOUNDED

    @property
    def end(self) -> float:
        """Return the time at which the scenario ends."""
        return NOW + self.days * DAY

    def recovery_time(self, vendor: str) -> float:
        """Return the seconds after a disruption in which the gauges of a source become correct."""
        extra = max(15 * MINUTE, 2 * self.poll_interval) if vendor == "northflank" else 0.0
        return 4 * self.poll_interval + 10 * MINUTE + extra


class LatencyClock:
    """The clock of the simulators. Each read moves the time by up to `latency` seconds."""

    def __init__(self, clock: Clock, seed: str) -> None:
        self._clock = clock
        self._rng = random.Random(f"{seed}/latency")
        self.latency = 0.0

    def __call__(self) -> float:
        return self._clock.advance(self._rng.uniform(0, self.latency)) if self.latency else self._clock()


class ExporterLog(io.StringIO):
    """The log of all processes. `write_error`: the error that writing raises; None if it works."""

    write_error: OSError | None = None

    def write(self, text: str) -> int:
        """Keep a text, or raise the error of writing."""
        if self.write_error is not None:
            raise self.write_error
        return super().write(text)


class ScenarioHarness:
    """A scenario without its disruptions: vendors, exporter, auditors, and the means to disrupt them.

    Attributes:
        vendors: All vendors. Each has one source, which has the vendor's name.
        unconfigured: Sources that are not in the config at present.
        next_crash: Where the next process crashes while it starts; None if it does not.
        next_poll: When each source is due.
        last_disrupted: When each source was last disrupted.
        last_wrong_answer: When each API last gave a wrong answer.
        last_success: When a scrape last showed that the last poll of a source had succeeded.
        outages: Ranges without an exporter that are longer than `lookback`.
        unread_ranges: Ranges of each source that an exporter may report as unobserved: no poll succeeded for half of
            `lookback`, or the state was replaced by an older copy.
        unreadable_jobs: Jobs whose runs cannot be listed, as vendor, project and name.
        disruption_counts: How often each disruption happened, and the number of kills.
    """

    def __init__(self, plan: ScenarioPlan, folder: Path, ledger: LedgerFactory) -> None:
        self.plan = plan
        self.clock = Clock(NOW + 0.5)
        self.local_clock = Offset(self.clock)
        self.api_clock = LatencyClock(self.clock, plan.seed)
        rng = random.Random(f"{plan.seed}/stage")
        self.findings = Findings(self.clock)
        self.disruption_counts: Counter[str] = Counter()
        self.unreadable_jobs: set[tuple[str, str, str]] = set()
        self.polls = 0
        self.vendors = tuple(SIMULATORS)
        limits = {"northflank": NORTHFLANK_RUNS_PER_DAY * plan.days}
        sizes = {vendor: int(min(plan.runs, limits.get(vendor, plan.runs))) for vendor in self.vendors}
        worlds = {
            vendor: generate_world(
                vendor, plan.seed, WorldSize(begin=NOW, end=plan.end, runs=sizes[vendor], renames=not plan.bounded)
            )
            for vendor in self.vendors
        }
        self.truths = {vendor: GroundTruth(vendor, worlds[vendor], plan.max_run_age) for vendor in self.vendors}
        self.simulators: Mapping[str, Simulator] = {
            vendor: fast_simulator(vendor)(
                worlds[vendor], self.api_clock, seed=rng.getrandbits(32), port=port, **simulator_arguments(vendor)
            )
            for port, vendor in enumerate(self.vendors, start=1)
        }
        self.network = InMemoryNetwork(self.simulators.values(), self.clock.advance)
        self.log = ExporterLog()
        logs.configure(logs.LogOptions(level="debug", format="json"), self.log, self.clock)
        self.secrets = (
            MARK,
            TOKEN,
            *(secret for each in self.simulators.values() for secret in sign_in_secrets(each)),
        )
        self.page_auditor = PageAuditor(
            self.findings, self.secrets, zero_first=plan.zero_first, max_series=plan.max_series
        )
        self.disk = Disk(folder / "disk")
        self._generation = 0
        self.state = self.disk.folder / "0" / "state.db"
        self.state.parent.mkdir()
        self.state_copies: list[tuple[float, Path]] = []
        self.unconfigured: set[str] = set()
        self.next_crash: tuple[CrashPoint, int] | None = None
        self.overrides: dict[str, object] = {}
        self.next_poll = dict.fromkeys(self.vendors, 0.0)
        self.last_disrupted = dict.fromkeys(self.vendors, NOW)
        self.last_wrong_answer = dict.fromkeys(self.vendors, NOW)
        self.outages: list[tuple[float, float]] = []
        self.unread_ranges: dict[str, list[tuple[float, float]]] = {vendor: [] for vendor in self.vendors}
        self.last_success = dict.fromkeys(self.vendors, NOW)
        self.poll_starts: dict[str, list[float]] = {vendor: [] for vendor in self.vendors}
        self._environment = ProcessEnvironment(
            clock=self.local_clock, monotonic=self.clock, sleep=self._sleep, transport=self.network, ledger=ledger
        )
        self._start()

    def _sleep(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        return False

    # --- the exporter ---

    def settings(self) -> dict[str, object]:
        """Return the current config."""
        plan = self.plan
        common: dict[str, object] = {
            "poll_interval": duration_text(plan.poll_interval),
            "overlap": duration_text(plan.overlap),
            "lookback": duration_text(plan.lookback),
            "max_run_age": duration_text(plan.max_run_age),
            "requests_per_minute": 100_000,
            "timeout": duration_text(TIMEOUT),
            "jobs": {"exclude": [EXCLUDED_PATTERN]},
        }
        blocks = [
            {
                **self.simulators[vendor].source_config(vendor),
                **common,
                **vendor_specific_settings(vendor, plan),
                **self.overrides,
            }
            for vendor in self.vendors
            if vendor not in self.unconfigured
        ]
        retention = max(plan.lookback, plan.max_run_age) + 2 * plan.overlap + HOUR
        return {
            "sources": blocks,
            "state": {"path": str(self.state), "retention": duration_text(retention)},
            "metrics": {
                "zero_first": "2m" if plan.zero_first else "0s",
                "job_expiry": "20d",
                "max_series": plan.max_series,
            },
        }

    def _start(self) -> None:
        """Start a process. It may crash while it starts."""
        self.process = SimulatedProcess(self.settings(), self.state, self._environment)
        if self.next_crash is not None:
            self.process.crash_injector.arm(*self.next_crash)
            self.next_crash = None
        self.next_poll = {vendor: self.clock() + number * 0.25 for number, vendor in enumerate(self.vendors)}
        self.mark_disrupted(self.vendors)
        try:
            self.process.start()
        except Killed:
            self.kill()

    def restart_after_crash(self, act: Callable[[], object]) -> None:
        """Call a function of the process. If the process crashes in it, start the next one."""
        try:
            act()
        except Killed:
            self.kill()

    def kill(self, downtime: float = 0.0) -> None:
        """Crash the process. Start the next one from the files as they are now."""
        self.disruption_counts["kills"] += 1
        self.disk.free()
        old_folder, process = self.state.parent, self.process
        process.crash_injector.dead = True
        # Closing a connection changes the files, so they are copied first.
        self.state = copy_files(self.state, self._new_folder())
        process.close_after_crash()
        delete_folder(old_folder)
        self.clock.advance(downtime)
        self._start()

    def restart(self, downtime: float = 0.0) -> None:
        """Stop the process cleanly, and start the next one."""
        self.process.stop()
        self.clock.advance(downtime)
        self._start()

    def copy_state(self) -> None:
        """Copy the files of the state while the process runs."""
        copy = copy_files(self.state, self.disk.folder / f"copy-{len(self.state_copies)}")
        self.state_copies.append((self.clock(), copy))

    def restore_copy(self, copied_at: float, copy: Path) -> None:
        """Replace the state by an older copy, while no process runs."""
        self.process.stop()
        for ranges in self.unread_ranges.values():
            ranges.append((copied_at, self.clock()))
        old_folder = self.state.parent
        self.state = copy_files(copy, self._new_folder())
        delete_folder(old_folder)
        self.page_auditor.allow_older_values()
        for truths in self.truths.values():
            if truths.renamed is not None:
                truths.renamed.allow_older_state()
        self._start()

    def _new_folder(self) -> Path:
        self._generation += 1
        return self.disk.folder / str(self._generation)

    def reload(self) -> None:
        """Reload the config that `settings` returns."""
        self.restart_after_crash(lambda: self.process.reload(self.settings()))
        for vendor in self.vendors:
            self.next_poll[vendor] = self.clock()
        self.mark_disrupted(self.vendors)

    # --- time ---

    def first_poll(self, vendor: str) -> float:
        """Return the time of a source's first poll; infinity if there was none."""
        return self.poll_starts[vendor][0] if self.poll_starts[vendor] else float("inf")

    def set_listening(self, vendors: Iterable[str], *, listening: bool) -> None:
        """Let these APIs accept or refuse connections."""
        for vendor in vendors:
            self.network.endpoints[self.simulators[vendor].url].listening = listening

    def mark_disrupted(self, vendors: Iterable[str]) -> None:
        """Record that these sources are disrupted now."""
        for vendor in vendors:
            self.last_disrupted[vendor] = self.clock()

    def advance(self) -> None:
        """Move the clock to the next poll, poll all due sources, and scrape."""
        configured = [vendor for vendor in self.vendors if vendor not in self.unconfigured]
        self.clock.set(max(self.clock(), min(self.next_poll[vendor] for vendor in configured)))
        for vendor in configured:
            if self.next_poll[vendor] <= self.clock() and vendor not in self.unconfigured:
                self.restart_after_crash(lambda vendor=vendor: self._poll(vendor))  # type: ignore[misc]  # bound at once
        self.tick_and_scrape()

    def _poll(self, vendor: str) -> None:
        started = self.clock()
        poller = self.process.pollers[vendor]
        self.polls += 1
        self.poll_starts[vendor].append(started)
        poller.poll()
        self.next_poll[vendor] = max(started + poller.wait(), self.clock())

    def tick_and_scrape(self) -> None:
        """Run one heartbeat, scrape, and audit the page."""
        self.restart_after_crash(self.process.tick)
        self.restart_after_crash(lambda: self.page_auditor.audit(self.process.scrape()))
        for vendor in self.vendors:
            if self.page_auditor.value("jobrun_source_up", source=vendor) == 1:
                since, self.last_success[vendor] = self.last_success[vendor], self.clock()
                if self.clock() - since > self.plan.lookback / 2:
                    self.unread_ranges[vendor].append((since, self.clock()))
            renamed = self.truths[vendor].renamed
            if renamed is not None and vendor not in self.unconfigured:
                renamed.add_page(self.clock(), self.page_auditor.by_job("jobrun_runs_total", vendor))

    def close(self) -> None:
        self.process.crash_injector.disarm()
        self.process.stop()
        self.disk.close()
        structlog.reset_defaults()


def delete_folder(folder: Path) -> None:
    for part in folder.iterdir():
        part.unlink()
    folder.rmdir()


def duration_text(seconds: float) -> str:
    """Return a duration as a config contains it."""
    return f"{int(seconds)}s"


def simulator_arguments(vendor: str) -> dict[str, Any]:
    """Return the arguments of a simulator: no rate limits, large pages, and a key to search for."""
    arguments = dict(traits_of(vendor).arguments)
    if vendor == "snowplow":
        arguments["credentials"] = SnowplowCredentials(api_key="planted-snowplow-secret")
    if vendor == "workato":
        arguments["options"] = msgspec.structs.replace(arguments["options"], page_size=50)
    return arguments


def vendor_specific_settings(vendor: str, plan: ScenarioPlan) -> dict[str, object]:
    """Return the settings that only some vendors have."""
    steps: dict[str, object] = {} if vendor == "northflank" else {"steps": plan.steps}
    sweep = {"sweep": {"interval": duration_text(plan.sweep), "window": "24h"}}
    return steps | (sweep if vendor in ("snowplow", "strait") else {})


def sign_in_secrets(simulator: Simulator) -> list[str]:
    """Return the secrets in the config of a simulator's source."""
    auth = simulator.source_config()["auth"]
    assert isinstance(auth, Mapping)
    return [str(value) for key, value in auth.items() if key != "api_key_id"]
