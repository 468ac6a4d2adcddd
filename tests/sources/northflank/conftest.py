from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from exporter.assembly import NoPublisher, counting_rules, rules_of
from exporter.client.budget import Budget
from exporter.client.client import Client, Environment
from exporter.config import Config
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.polling.poll import Poller
from exporter.simulators.clock import Clock
from exporter.simulators.northflank import NorthflankOptions, NorthflankSimulator
from exporter.simulators.scripted import ScriptedWorld
from exporter.sources.northflank.settings import NorthflankSettings
from exporter.sources.northflank.source import TYPE
from exporter.sources.source import Source
from exporter.state.opening import open_state

NOW = 1_700_000_000.0


class Exporter:
    """One Northflank source with a ledger in memory, on a clock that only waiting moves."""

    def __init__(self, simulator: NorthflankSimulator, clock: Clock, state: Path, **keys: object) -> None:
        self.clock = clock
        self.settings = NorthflankSettings.model_validate({**simulator.source_config(), **keys})
        self.ledger = Ledger(lambda: open_state(state, clock))
        self.ledger.load()
        self.source: Source | None = None
        self.lasted = []
        self.start()

    def start(self) -> None:
        """Start a new process on the same state."""
        if self.source:
            self.source.close()
        config = Config(sources=(self.settings,))
        rules = rules_of(self.settings, config)
        self.ledger.configure({rules.name: rules}, counting_rules(config), "auto")
        metrics = RequestMetrics(CollectorRegistry())
        meter = metrics.source(rules.name, TYPE.endpoints)
        access = TYPE.access(self.settings)
        budget = Budget(self.settings.requests_per_minute, monotonic=self.clock, sleep=self.sleep)
        self.client = Client(
            access.root,
            access.auth,
            budget,
            recorder=meter,
            environment=Environment(clock=self.clock, monotonic=self.clock, sleep=self.sleep),
        )
        self.source = source = TYPE.build(self.settings, self.client)
        self.poller = Poller(
            rules,
            source,
            self.ledger,
            meter,
            api_clock=self.client,
            monotonic=self.clock,
            sweep_interval=None,
            publisher=NoPublisher(),
        )

    def sleep(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        return False

    def poll(self) -> str:
        return self.poller.poll()

    def live(self, seconds: float, each=lambda: None) -> list[str]:
        """Poll at the interval for this many seconds, call `each` after each poll, and return the outcomes."""
        until, outcomes = self.clock() + seconds, []
        while self.clock() < until:
            began = self.clock()
            outcomes.append(self.poll())
            self.lasted.append(self.clock() - began)
            each()
            interval = self.settings.poll_interval
            self.clock.set(max(self.clock(), began + interval))
        return outcomes

    @property
    def name(self) -> str:
        return self.settings.name

    def job(self, job_id: str):
        return next(job for job in self.ledger.jobs_of(self.name) if job.job.job_id == job_id)

    def counted(self) -> dict[tuple[str, str], float]:
        """Return the numbers of counted completions above 0, by job ID and result."""
        return {
            (job.job.job_id, result): count.value
            for job in self.ledger.jobs_of(self.name)
            for result, count in job.counts.get("jobrun_runs_total", {}).items()
            if count.value
        }

    def open(self) -> set[str]:
        return {run.run_id for run in self.ledger.open_runs(self.name)}

    def watermark(self) -> float | None:
        return self.ledger.source(self.name).watermark()

    def source_count(self, family: str) -> float:
        return self.ledger.source(self.name).counts[family][""].value


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def world(clock):
    return ScriptedWorld(clock)


@pytest.fixture
def simulator(world, clock):
    with NorthflankSimulator(world, clock) as simulator:
        yield simulator


@pytest.fixture
def exporting(simulator, clock, tmp_path):
    """Return a function that makes an exporter of the simulator: `exporting(poll_interval="2m")`."""
    made = []

    def make(**keys) -> Exporter:
        made.append(Exporter(simulator, clock, tmp_path / f"{len(made)}.db", **keys))
        return made[-1]

    yield make
    for exporter in made:
        if exporter.source is not None:
            exporter.source.close()
        exporter.ledger.close()


@pytest.fixture
def exporter(exporting):
    return exporting()


@pytest.fixture
def option(simulator):
    def replace(**fields) -> None:
        simulator.options = NorthflankOptions(**fields)

    return replace


@pytest.fixture
def requested(simulator):
    """Return the short names of the endpoints requested since the last call, in order."""

    def drain() -> list[str]:
        lines = [line.endpoint for line in simulator.log.lines()]
        simulator.log.clear()
        return lines

    return drain
