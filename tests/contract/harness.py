"""One simulated vendor, and the exporter that reads it: real HTTP and a real state, but one clock that a test moves.

The harness and the tests are written once for all vendors of `exporter.simulators.SIMULATORS`; what a vendor cannot do
stands in the table ABILITIES, and nowhere else.
"""

import io
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import structlog
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from exporter.assembly import Assembly, Clocks, NoPages, counting_rules
from exporter.config import loads
from exporter.exposition.exposition import Exposition
from exporter.exposition.publisher import Publisher
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.metrics.zero_first import ZeroFirst
from exporter.model import Result
from exporter.simulators import SIMULATORS
from exporter.simulators.clock import Clock
from exporter.simulators.disruptions import AnyDisruption
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.server import Simulator
from exporter.simulators.workato_rows import number_of
from exporter.simulators.world import SimJob
from exporter.sources import SETTINGS
from exporter.state.opening import open_state

NOW = 1_700_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
JOBS = ("job-0", "job-1", "job-2", "stuck")
"""Jobs of the tests that exist from the start, where what holds them must."""

RUNS = "jobrun_runs_total"
UNOBSERVED = "jobrun_source_unobserved_seconds_total"


class Ability(msgspec.Struct, frozen=True, kw_only=True):
    """What a vendor can and cannot do.

    Attributes:
        lists: Short names of the endpoints that show runs, where wrong answers and errors are injected. None: all.
        pages: Short names of the endpoints that list runs. None: all.
        by_id: Short names of the endpoints that show one run by its ID; none if there are none.
        job_path: Makes of a job's name a text that is in the paths of all requests about its runs, and in no others.
            None: no request is about one job alone.
        paged: Runs that two pages of one list hold, at least; 0 if its lists have no pages.
        steps: The endpoint of the steps of one run, "" if there is none.
        step_name: What it calls a step, made of the world's `name` and of `number`, its place in the run.
        results: The results that its rows can show; the world's other failures look like `failure` there.
        errors: Whether a listing that fails whole makes the whole poll fail.
        catches_up: How far back it shows ended runs, in seconds, at least.
        forgets: Whether it has a reach beyond which nothing is shown.
        announced: Whether what holds the jobs must exist before the first poll: what appears later has a baseline
            time of its own.
        silent: Whether it provides neither output nor error texts.
        quiet: Seconds without anything new after which all that happened has been read, at most.
    """

    lists: tuple[str, ...] | None = None
    pages: tuple[str, ...] | None = None
    by_id: tuple[str, ...] = ()
    job_path: Callable[[str], str] | None = None
    paged: int = 0
    steps: str = ""
    step_name: str = "{name}"
    results: frozenset[Result] = frozenset({Result.SUCCESS, Result.FAILURE})
    errors: bool = True
    catches_up: float = 3 * DAY
    forgets: bool = False
    announced: bool = False
    silent: bool = False
    quiet: float = 0.0


ABILITIES: Mapping[str, Ability] = {
    "snowplow": Ability(
        lists=("runs",),
        pages=("runs",),
        by_id=("run",),
        steps="steps",
        results=frozenset({Result.SUCCESS, Result.FAILURE, Result.SKIP}),
        catches_up=6 * DAY,
        forgets=True,
    ),
    "northflank": Ability(
        lists=("runs", "run"),
        pages=("runs",),
        by_id=("run",),
        job_path=lambda job: f"/jobs/{job}/runs",
        paged=110,
        announced=True,
        silent=True,
        quiet=15 * MINUTE,
    ),
    "strait": Ability(
        lists=("runs", "run", "workflow_runs", "workflow_run"),
        pages=("runs", "workflow_runs"),
        by_id=("run", "workflow_run"),
        paged=110,
        steps="steps",
        results=frozenset(Result),
        catches_up=7 * DAY,
    ),
    "workato": Ability(
        pages=("jobs",),
        by_id=("job",),
        job_path=lambda job: f"/recipes/{number_of(f'prod/{job}')}/",
        paged=40,
        steps="job",
        step_name="{number} connector/{name}",
        announced=True,
    ),
}
"""By vendor; one that is not here can do what the defaults of `Ability` say."""


class Bench:
    """A world, a simulator, a clock, and an exporter that can be restarted at will.

    Args:
        vendor: A word of SIMULATORS.
        folder: Where the state is.
        metrics: Changes to the part `metrics` of the configuration.
        build: Makes another source of the settings and the client.
        wire: Makes what takes the place of HTTP of the simulator, which then does not listen.
        settings: Changes to the source's configuration.
    """

    def __init__(
        self,
        vendor: str,
        folder: Path,
        metrics: Mapping[str, object] | None = None,
        build=None,
        wire: Callable[[Simulator], httpx.BaseTransport] | None = None,
        **settings: object,
    ):
        self.vendor = vendor
        self.build = build
        self.ability = ABILITIES.get(vendor, Ability())
        self.clock = Clock(NOW)
        self.local = Offset(self.clock)
        self.world = ScriptedWorld(self.clock)
        for job in JOBS if self.ability.announced else ():
            self.world.add_job(SimJob(job_id=f"prod/{job}", name=job, project="prod"))
        self.simulator: Simulator = SIMULATORS[vendor](self.world, self.clock, port=0 if wire is None else 1)
        self.wire = None if wire is None else wire(self.simulator)
        if wire is None:
            self.simulator.start()
        self.state = folder / "state.db"
        self.settings = {"poll_interval": "1m", "requests_per_minute": 600, **settings}
        self.metrics = {"zero_first": "0s", **(metrics or {})}
        self.pages: list[str] = []
        self.logs = io.StringIO()
        self.born: float | None = None
        self.polls = 0
        self._random = random.Random(7)  # noqa: S311  # simulated runs are random, not secret
        self.start()

    # --- the exporter ---

    def start(self) -> None:
        """Starts the exporter on the state as it is."""
        block = {**self.simulator.source_config("one"), **self.settings}
        text = yaml.safe_dump({"sources": [block], "metrics": self.metrics, "state": {"path": str(self.state)}})
        config = loads(text, {}, SETTINGS)
        structlog.configure(
            processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(self.logs),
            cache_logger_on_first_use=False,
        )
        monotonic = self.clock
        registry = CollectorRegistry()
        self_metrics = RequestMetrics(registry)
        self.holds = ZeroFirst(config.metrics.zero_first, monotonic)
        self.exposition = Exposition(registry, self.holds)
        self.ledger = Ledger(lambda: open_state(self.state, self.local))
        self.ledger.load()
        self.publisher = Publisher(self.ledger, self.exposition, self.holds, monotonic=monotonic)
        outside = Clocks(clock=self.local, monotonic=monotonic, sleep=self._sleep, transport=self.wire)
        self.assembly = Assembly(config, self.ledger, self_metrics, self.publisher, outside)
        rules = {name: shown.rules for name, shown in self.assembly.shown.items()}
        self.ledger.configure(rules, counting_rules(config), config.metrics.step_histograms)
        self.publisher.configure(config, self.assembly.shown)
        self.publisher.publish()
        self.poller = self.assembly.polled[0].poller
        # A page is made when a test looks at one: those of every poll would take most of the time.
        self.poller._pages = NoPages()
        if self.build is not None:
            source: Any = self.assembly.sources["one"]
            self.poller._source = self.build(source._settings, source._client)

    def _sleep(self, seconds: float) -> bool:
        """Waiting moves the clock."""
        self.clock.advance(seconds)
        return False

    def poll(self) -> str:
        """Poll once; the first poll sets the baseline."""
        if self.born is None:
            self.born = self.clock()
        self.polls += 1
        return self.poller.poll()

    def run(self, seconds: float, every: float = MINUTE) -> None:
        """Polls for so long, from start to start, as the schedule does: a poll may take a part of its interval."""
        begun = self.clock()
        for number in range(1, math.ceil(seconds / every) + 1):
            start = begun + min(number * every, seconds)
            self.clock.advance(max(0.0, start - self.clock()))
            self.poll()

    def settle(self, polls: int = 4) -> None:
        """Polls until all that happened can be known."""
        self.run(max(polls * MINUTE, self.ability.quiet))

    def stop(self) -> None:
        """Ends the exporter; what is not committed never happened."""
        self.assembly.close()
        self.ledger.close()

    def restart(self, down: float = 0.0) -> None:
        """Ends the exporter, and starts another some time later."""
        self.stop()
        self.clock.advance(down)
        self.start()

    def close(self) -> None:
        """Ends all."""
        self.stop()
        self.simulator.stop()
        structlog.reset_defaults()

    # --- what it shows ---

    def page(self) -> str:
        """Scrapes."""
        self.publisher.publish()
        page = self.exposition.page
        assert page is not None
        self.holds.scraped(page.generation)
        text = bytes(page.text).decode()
        self.pages.append(text)
        return text

    def samples(self, family: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Samples of a name with their values of these labels."""
        found: dict[tuple[str, ...], float] = {}
        for metric in text_string_to_metric_families(self.page()):
            for sample in metric.samples:
                if sample.name == family:
                    found[tuple(sample.labels.get(label, "") for label in labels)] = sample.value
        return found

    def counted(self) -> dict[tuple[str, str, str], int]:
        """Return the counted completions by project, job name and result, without zeros."""
        found = self.samples(RUNS, "project", "job_name", "result")
        return {(key[0], key[1], key[2]): int(value) for key, value in found.items() if value}

    def total(self) -> int:
        """Return the number of counted completions."""
        return sum(self.counted().values())

    def value(self, family: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels."""
        names = tuple(labels)
        return sum(value for key, value in self.samples(family, *names).items() if key == tuple(labels.values()))

    # --- what truly happened ---

    def truth(self, since: float | None = None, until: float = float("inf")) -> dict[tuple[str, str, str], int]:
        """Completed runs as they really were since the baseline."""
        born = (self.born or NOW) if since is None else since
        endings = Counter[tuple[str, str, str]]()
        for run in self.simulator.truth(born, until).endings:
            if run.end is not None and run.end > born and run.result is not None:
                endings[run.project, run.job, self.seen_as(run.result)] += 1
        return dict(endings)

    def seen_as(self, result: Result) -> str:
        """A result in the vendor's words."""
        return str(result if result in self.ability.results else Result.FAILURE)

    def step(self, name: str, number: int = 0) -> str:
        """A step in the vendor's words."""
        return self.ability.step_name.format(name=name, number=number)

    def disruption(self, kind: Callable[..., AnyDisruption], **fields: object) -> None:
        """Add a disruption at the endpoints that list runs to those in force."""
        endpoints: Collection[str | None] = self.ability.lists or (None,)
        self.simulator.disruptions.add(*(kind(endpoint=endpoint, **fields) for endpoint in endpoints))

    def at(self, endpoints: Collection[str] | None, kind: Callable[..., AnyDisruption], **fields: object) -> None:
        """Add a disruption at these endpoints, or at all of them, to those in force."""
        self.simulator.disruptions.add(*(kind(endpoint=endpoint, **fields) for endpoint in endpoints or (None,)))

    def busy(self, seconds: float, jobs: int = 3, every: float = 5 * MINUTE, **fields: object) -> None:
        """Runs of some jobs from now on for so long, of all lengths and with all endings."""
        now = self.clock()
        results = sorted(self.ability.results)
        for job in range(jobs):
            start = now + self._random.uniform(0, every)
            while start < now + seconds:
                self.world.run(
                    f"job-{job}",
                    start=round(start, 3),
                    duration=round(self._random.choice((0.5, 20, 90, 400, 1500)) * self._random.uniform(0.8, 1.2), 3),
                    result=str(self._random.choice(results)),
                    **fields,
                )
                start += every * self._random.uniform(0.6, 1.4)


class Offset:
    """The exporter's own clock: the world's, but for what it is wrong by."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.wrong = 0.0

    def __call__(self) -> float:
        return self._clock() + self.wrong
