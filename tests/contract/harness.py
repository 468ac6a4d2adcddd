"""One simulated vendor and the exporter that reads it, with real HTTP, a real state and one clock that a test moves.

The harness and the tests are written once for all vendors of `exporter.simulators.SIMULATORS`. Only the table ABILITIES
says what a vendor cannot do.
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

from exporter.assembly import Assembly, Clocks, NoPublisher, counting_rules
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
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state

NOW = 1_700_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
JOBS = ("job-0", "job-1", "job-2", "stuck")
"""Jobs that exist from the start at vendors that are `announced`."""

RUNS = "jobrun_runs_total"
UNOBSERVED = "jobrun_source_unobserved_seconds_total"


class Ability(msgspec.Struct, frozen=True, kw_only=True):
    """What a vendor can and cannot do.

    Attributes:
        lists: Short names of the endpoints that show runs. Wrong answers and errors are injected there. None: all.
        pages: Short names of the endpoints that list runs. None: all.
        by_id: Short names of the endpoints that show one run by its ID.
        job_path: Returns for a job's name a part of the path of each request about the job's runs. No other path has
            this part. None: no request is about a single job.
        paged: Number of runs that need at least two pages of a list; 0 if lists have no pages.
        steps: The endpoint of the steps of one run; "" if there is none.
        step_name: Template of a step's name, from the world's `name` and `number`, its position in the run.
        results: The results that its rows can show. Other failures of the world are shown as `failure`.
        errors: Whether the poll fails if a list fails as a whole.
        catches_up: Minimum seconds for which it shows completed runs.
        forgets: Whether it shows nothing beyond a certain age.
        announced: Whether projects must exist before the first poll. A later project has its own baseline.
        silent: Whether it provides neither output nor error texts.
        quiet: Maximum seconds without changes until everything has been read.
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
"""Abilities by vendor. A vendor that is missing here has the defaults of `Ability`."""


class Bench:
    """A world, a simulator, a clock, and an exporter that a test can restart.

    Args:
        vendor: A key of SIMULATORS.
        folder: Folder of the state.
        metrics: Changes to the section `metrics` of the config.
        build: Builds a different source from the settings and the client.
        wire: Returns a transport to use instead of HTTP. The simulator then does not listen.
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
        """Start the exporter with the current state."""
        block = {**self.simulator.source_config("one"), **self.settings}
        text = yaml.safe_dump({"sources": [block], "metrics": self.metrics, "state": {"path": str(self.state)}})
        config = loads(text, {}, KNOWN_NAMES)
        structlog.configure(
            processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(self.logs),
            cache_logger_on_first_use=False,
        )
        monotonic = self.clock
        registry = CollectorRegistry()
        self_metrics = RequestMetrics(registry)
        self.pending_series = ZeroFirst(config.metrics.zero_first, monotonic)
        self.exposition = Exposition(registry, self.pending_series)
        self.ledger = Ledger(lambda: open_state(self.state, self.local))
        self.ledger.load()
        self.publisher = Publisher(self.ledger, self.exposition, self.pending_series, monotonic=monotonic)
        outside = Clocks(clock=self.local, monotonic=monotonic, sleep=self._sleep, transport=self.wire)
        self.assembly = Assembly(config, self.ledger, self_metrics, self.publisher, outside)
        rules = {name: shown.rules for name, shown in self.assembly.configured.items()}
        self.ledger.configure(rules, counting_rules(config), config.metrics.step_histograms)
        self.publisher.configure(config, self.assembly.configured)
        self.publisher.publish()
        self.poller = self.assembly.scheduled[0].poller
        # Pages are rendered only when a test reads one. Rendering one per poll would take most of the time.
        self.poller._publisher = NoPublisher()
        if self.build is not None:
            source: Any = self.assembly.sources["one"]
            self.poller._source = self.build(source._settings, source._client)

    def _sleep(self, seconds: float) -> bool:
        """Move the clock instead of waiting."""
        self.clock.advance(seconds)
        return False

    def poll(self) -> str:
        """Poll once; the first poll sets the baseline."""
        if self.born is None:
            self.born = self.clock()
        self.polls += 1
        return self.poller.poll()

    def run(self, seconds: float, every: float = MINUTE) -> None:
        """Poll for this many seconds, once per interval, as the schedule does. A poll takes a part of its interval."""
        begun = self.clock()
        for number in range(1, math.ceil(seconds / every) + 1):
            start = begun + min(number * every, seconds)
            self.clock.advance(max(0.0, start - self.clock()))
            self.poll()

    def settle(self, polls: int = 4) -> None:
        """Poll until everything that happened has been read."""
        self.run(max(polls * MINUTE, self.ability.quiet))

    def stop(self) -> None:
        """Stop the exporter. Uncommitted changes are lost."""
        self.assembly.close()
        self.ledger.close()

    def restart(self, down: float = 0.0) -> None:
        """Stop the exporter, and start another one `down` seconds later."""
        self.stop()
        self.clock.advance(down)
        self.start()

    def close(self) -> None:
        """Stop the exporter and the simulator."""
        self.stop()
        self.simulator.stop()
        structlog.reset_defaults()

    # --- pages ---

    def page(self) -> str:
        """Return a scraped page."""
        self.publisher.publish()
        page = self.exposition.page
        assert page is not None
        self.pending_series.scraped(page.generation)
        text = bytes(page.text).decode()
        self.pages.append(text)
        return text

    def samples(self, family: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the samples of a family by their values of these labels."""
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
        """Return the sum of the samples of a family that have these labels."""
        names = tuple(labels)
        return sum(value for key, value in self.samples(family, *names).items() if key == tuple(labels.values()))

    # --- ground truth ---

    def truth(self, since: float | None = None, until: float = float("inf")) -> dict[tuple[str, str, str], int]:
        """Return the real number of completed runs since the baseline, by project, job and result."""
        born = (self.born or NOW) if since is None else since
        endings = Counter[tuple[str, str, str]]()
        for run in self.simulator.truth(born, until).endings:
            if run.end is not None and run.end > born and run.result is not None:
                endings[run.project, run.job, self.seen_as(run.result)] += 1
        return dict(endings)

    def seen_as(self, result: Result) -> str:
        """Return a result as the vendor shows it."""
        return str(result if result in self.ability.results else Result.FAILURE)

    def step(self, name: str, number: int = 0) -> str:
        """Return the vendor's name of a step."""
        return self.ability.step_name.format(name=name, number=number)

    def disruption(self, kind: Callable[..., AnyDisruption], **fields: object) -> None:
        """Add a disruption of the endpoints that show runs."""
        endpoints: Collection[str | None] = self.ability.lists or (None,)
        self.simulator.disruptions.add(*(kind(endpoint=endpoint, **fields) for endpoint in endpoints))

    def at(self, endpoints: Collection[str] | None, kind: Callable[..., AnyDisruption], **fields: object) -> None:
        """Add a disruption of these endpoints, or of all."""
        self.simulator.disruptions.add(*(kind(endpoint=endpoint, **fields) for endpoint in endpoints or (None,)))

    def busy(self, seconds: float, jobs: int = 3, every: float = 5 * MINUTE, **fields: object) -> None:
        """Add runs of some jobs for this many seconds from now, with all durations and results."""
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
    """The exporter's own clock: the world's clock plus an error of `wrong` seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.wrong = 0.0

    def __call__(self) -> float:
        return self._clock() + self.wrong
