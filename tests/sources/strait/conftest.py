import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, NoPublisher, counting_rules
from exporter.config import loads
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.simulators.clock import Clock
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.strait import StraitOptions, StraitSimulator
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state

NOW = 1_700_000_000.0
SOURCE = "strait"


class InProcessExporter:
    """An exporter in this process that polls a simulated Strait, with a real poller and a real state."""

    def __init__(self, simulator: StraitSimulator, clock: Clock, state: Path, **settings: object) -> None:
        self._simulator, self._clock, self._state, self._settings = simulator, clock, state, settings
        self.start()

    def start(self) -> None:
        source = {**self._simulator.source_config(SOURCE), "requests_per_minute": 100_000, **self._settings}
        config = loads(yaml.safe_dump({"sources": [source]}), {}, KNOWN_NAMES)
        self.ledger = Ledger(lambda: open_state(self._state, self._clock))
        self.ledger.load()
        # Waits take real time; skipped time passes on both clocks.
        outside = Clocks(clock=self._clock, monotonic=lambda: time.monotonic() + self._clock())
        self.assembly = Assembly(config, self.ledger, RequestMetrics(CollectorRegistry()), NoPublisher(), outside)
        rules = {name: shown.rules for name, shown in self.assembly.configured.items()}
        self.ledger.configure(rules, counting_rules(config), config.metrics.step_histograms)
        self.polled = self.assembly.scheduled[0]
        self.source = self.assembly.sources[SOURCE]

    def stop(self) -> None:
        self.assembly.close()
        self.ledger.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def poll(self, seconds: float = 0.0) -> str:
        """Advance the clock, poll, and return the outcome."""
        self._clock.advance(seconds)
        return self.polled.poller.poll()

    @property
    def now(self) -> float:
        return self._clock()

    @property
    def disruption(self) -> str:
        return self.polled.poller.status.error

    def job(self, name: str):
        (job,) = [job for job in self.ledger.jobs_of(SOURCE) if job.name == name and not job.gone]
        return job

    def count(self, family: str, name: str, labels: str = "") -> float:
        return self.job(name).counts[family][labels].value

    def completed(self, name: str) -> dict[str, int]:
        """Return the number of completed runs by result, without zeros."""
        return endings_of(self.job(name))

    def all_endings(self) -> Counter:
        return Counter(
            {
                (job.project, job.name, result): number
                for job in self.ledger.jobs_of(SOURCE)
                for result, number in endings_of(job).items()
            }
        )

    def open(self) -> dict[str, str]:
        return {run.run_id: str(run.state) for run in self.ledger.open_runs(SOURCE)}

    def of_source(self, family: str, labels: str = "") -> float:
        return self.ledger.source(SOURCE).counts[family][labels].value


def endings_of(job) -> dict[str, int]:
    counts = job.counts["jobrun_runs_total"]
    return {str(result): int(count.value) for result, count in counts.items() if count.value}


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def world(clock: Clock) -> ScriptedWorld:
    return ScriptedWorld(clock)


@pytest.fixture
def simulator(world: ScriptedWorld, clock: Clock) -> Iterator[StraitSimulator]:
    with StraitSimulator(world, clock) as simulator:
        yield simulator


@pytest.fixture
def option(simulator: StraitSimulator) -> Callable[..., None]:
    """Return a function that sets options of the simulator and resets all others: `option(hidden=0.5)`."""

    def replace(**fields: object) -> None:
        simulator.options = msgspec.structs.replace(StraitOptions(), **fields)

    return replace


@pytest.fixture
def make_exporter(
    simulator: StraitSimulator, clock: Clock, tmp_path: Path
) -> Iterator[Callable[..., InProcessExporter]]:
    """Return a function that starts an exporter with other settings: `make_exporter(overlap="5m")`."""
    exporters: list[InProcessExporter] = []

    def make(**settings: object) -> InProcessExporter:
        exporters.append(InProcessExporter(simulator, clock, tmp_path / "state.db", **settings))
        return exporters[-1]

    yield make
    for exporter in exporters:
        exporter.stop()


@pytest.fixture
def exporter(make_exporter: Callable[..., InProcessExporter]) -> InProcessExporter:
    return make_exporter()
