from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from exporter.assembly import NoPublisher, counting_rules, rules_of
from exporter.client.budget import Budget
from exporter.client.client import Client, Environment, NetworkSettings
from exporter.config import Config, loads
from exporter.counting.records import JobState
from exporter.counting.series import SEPARATOR
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.polling.poll import Poller
from exporter.simulators.clock import Clock
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.workato import WorkatoOptions, WorkatoSimulator
from exporter.sources import KNOWN_NAMES, SOURCES
from exporter.state.opening import open_state

NOW = 1_700_000_000.0
NAME = "w"


class Watch:
    """A poller with its ledger on a simulated Workato; waiting moves the clock."""

    def __init__(self, simulator: WorkatoSimulator, clock: Clock, path: Path, **keys: object) -> None:
        self.simulator = simulator
        self.clock = clock
        self._path = path
        self._keys = {"requests_per_minute": 100_000, **keys}
        self.ledger = Ledger(lambda: open_state(path, clock))
        self.start()

    def start(self) -> None:
        """Start the process."""
        clock = self.clock
        config = self.config()
        (settings,) = config.sources
        kind = SOURCES["workato"]
        self.ledger = Ledger(lambda: open_state(self._path, clock))
        self.ledger.load()
        rules = rules_of(settings, config)
        self.ledger.configure({NAME: rules}, counting_rules(config), "auto")
        access = kind.access(settings)
        self.registry = CollectorRegistry()
        meter = RequestMetrics(self.registry).source(NAME, kind.endpoints)
        client = Client(
            access.root,
            access.auth,
            Budget(settings.requests_per_minute, monotonic=clock, sleep=self._sleep),
            recorder=meter,
            network=NetworkSettings(timeout=5.0),
            environment=Environment(clock=clock, monotonic=clock, sleep=self._sleep, random=lambda: 0.1),
            rate_limit_wait=kind.rate_limit_wait,
        )
        self.source = kind.build(settings, client)
        self.poller = Poller(
            rules,
            self.source,
            self.ledger,
            meter,
            api_clock=client,
            monotonic=clock,
            sweep_interval=None,
            publisher=NoPublisher(),
        )

    def config(self) -> Config:
        document = {
            "sources": [{**self.simulator.source_config(NAME), **self._keys}],
            "state": {"retention": "90d"},
        }
        return loads(str(document), {}, KNOWN_NAMES)

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def stop(self) -> None:
        self.source.close()
        self.ledger.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def poll(self, after: float = 60.0, times: int = 1) -> str:
        """Poll several times, this many seconds apart. Return the last outcome."""
        outcome = ""
        for _ in range(times):
            self.clock.advance(after)
            self.simulator.log.clear()
            outcome = self.poller.poll()
        return outcome

    def requests(self) -> dict[str, int]:
        """Return the requests of the latest poll, by short name of the endpoint."""
        counts: dict[str, int] = {}
        for (endpoint, _), number in self.simulator.log.counts().items():
            counts[endpoint] = counts.get(endpoint, 0) + number
        return counts

    def job(self, name: str, project: str = "prod") -> JobState:
        return next(job for job in self.ledger.jobs_of(NAME) if (job.project, job.name) == (project, name))

    def counts(self, name: str = "a", project: str = "prod", family: str = "jobrun_runs_total") -> dict[str, float]:
        """Return the series of a counter that are not 0, by their other labels."""
        series = self.job(name, project).counts.get(family, {})
        return {key.replace(SEPARATOR, " "): count.value for key, count in series.items() if count.value}

    def source_count(self, family: str) -> float:
        return sum(count.value for count in self.ledger.source(NAME).counts.get(family, {}).values())

    def open(self) -> list[str]:
        return [run.run_id for run in self.ledger.open_runs(NAME)]

    def watermark(self) -> float | None:
        return self.ledger.source(NAME).watermark()

    def counted(self) -> float:
        """Return all counted completions."""
        return sum(
            count.value
            for job in self.ledger.jobs_of(NAME)
            for count in job.counts.get("jobrun_runs_total", {}).values()
        )


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def world(clock: Clock) -> ScriptedWorld:
    return ScriptedWorld(clock)


@pytest.fixture
def simulator(world: ScriptedWorld, clock: Clock) -> Iterator[WorkatoSimulator]:
    with WorkatoSimulator(world, clock) as simulator:
        yield simulator


@pytest.fixture
def option(simulator: WorkatoSimulator) -> Callable[..., None]:
    """Replace options: `option(page_size=10)`."""

    def replace(**fields: object) -> None:
        simulator.options = WorkatoOptions(**fields)  # type: ignore[arg-type]  # checked at use

    return replace


@pytest.fixture
def watching(simulator: WorkatoSimulator, clock: Clock, tmp_path: Path) -> Iterator[Callable[..., Watch]]:
    """Starts to watch: `watching(steps="all")`."""
    started: list[Watch] = []

    def watch(**keys: object) -> Watch:
        started.append(Watch(simulator, clock, tmp_path / f"state-{len(started)}.db", **keys))
        return started[-1]

    yield watch
    for one in started:
        one.stop()


@pytest.fixture
def watch(watching: Callable[..., Watch]) -> Watch:
    return watching()
