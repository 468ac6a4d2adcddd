"""Puts the parts of the configured sources together."""

import threading
import time
from collections.abc import Callable, Mapping

import httpx
import msgspec

from exporter.client.budget import Budget
from exporter.client.client import Client, NetworkSettings, Surroundings
from exporter.config.config import Config
from exporter.config.source import SourceSettings
from exporter.counting.counting import Rules
from exporter.counting.records import JobState
from exporter.counting.rules import SourceRules
from exporter.exposition.publisher import Shown
from exporter.ledger.ledger import Ledger
from exporter.metrics.families import series_count
from exporter.metrics.jobview import JobView
from exporter.metrics.meters import SelfMetrics
from exporter.polling.poll import Pages, Poller
from exporter.polling.schedule import Polled
from exporter.sources import SOURCES
from exporter.sources.source import Source


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks, and what replaces the network and the waiting in tests. `sleep`: True if the process shuts down."""

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], bool | None] | None = None


def counting_rules(config: Config) -> Rules:
    """How endings are added up."""
    return Rules(
        run_buckets=config.metrics.run_buckets,
        step_buckets=config.metrics.step_buckets,
        released=config.metrics.zero_first == 0,
    )


def rules_of(settings: SourceSettings, config: Config) -> SourceRules:
    """What the ledger must know of a source."""
    kind = SOURCES[settings.type]
    has_steps = kind.has_steps and settings.steps != "off"

    def expects(job: JobState) -> bool:
        return config.objective_for(job.source, job.project, job.name) is not None

    def series(job: JobState) -> int:
        return series_count(JobView(state=job, results=kind.results, has_steps=has_steps))

    def buckets(job: JobState) -> tuple[float, ...]:
        objective = config.objective_for(job.source, job.project, job.name)
        return (objective and objective.run_buckets) or config.metrics.run_buckets

    return SourceRules(
        name=settings.name,
        identity=kind.identity(settings),
        results=kind.results,
        attempts=kind.attempts,
        steps=settings.steps if kind.has_steps else "off",
        reopens=kind.reopens,
        max_run_age=settings.max_run_age,
        reach=kind.reach,
        poll_interval=settings.poll_interval,
        include=tuple(pattern.pattern for pattern in settings.jobs.include),
        exclude=tuple(pattern.pattern for pattern in settings.jobs.exclude),
        max_series=config.metrics.max_series,
        series_of=series,
        run_buckets=buckets,
        never_expires=expects,
    )


def budgets_by_credential(config: Config) -> Mapping[str, float]:
    """Requests per minute by credential: sources that share one share the smallest."""
    smallest: dict[str, float] = {}
    for settings in config.sources:
        credential = SOURCES[settings.type].access(settings).credential
        smallest[credential] = min(settings.requests_per_minute, smallest.get(credential, settings.requests_per_minute))
    return smallest


class Assembly:
    """The sources of one configuration, with everything they need; thrown away at the next one.

    Args:
        config: The configuration.
        ledger: Where readings are committed.
        metrics: Where polls are measured.
        pages: Where committed things are served.
        outside: Clocks and network.
    """

    def __init__(self, config: Config, ledger: Ledger, metrics: SelfMetrics, pages: Pages, outside: Outside) -> None:
        self.config = config
        self._stopping = threading.Event()
        self._outside = outside
        self.sleep = outside.sleep or self._stopping.wait
        self._budgets = {
            credential: Budget(rate, monotonic=outside.monotonic, sleep=self.sleep)
            for credential, rate in budgets_by_credential(config).items()
        }
        self.shown = {
            settings.name: Shown(settings=settings, rules=rules_of(settings, config)) for settings in config.sources
        }
        self.sources: dict[str, Source] = {}
        self.clients: dict[str, Client] = {}
        self.polled = [self._polled(shown, ledger, metrics, pages) for shown in self.shown.values()]

    def _polled(self, shown: Shown, ledger: Ledger, metrics: SelfMetrics, pages: Pages) -> Polled:
        settings = shown.settings
        kind = SOURCES[settings.type]
        access = kind.access(settings)
        meter = metrics.source(settings.name, kind.endpoints)
        meter.info(settings.type, access.root)
        client = Client(
            access.root,
            access.auth,
            self._budgets[access.credential],
            meter=meter,
            network=NetworkSettings(
                timeout=settings.timeout,
                ca_file=settings.tls.ca_file,
                cert_file=settings.tls.cert_file,
                key_file=settings.tls.key_file,
                proxy_url=settings.proxy_url,
            ),
            surroundings=Surroundings(clock=self._outside.clock, monotonic=self._outside.monotonic, sleep=self.sleep),
            transport=self._outside.transport,
        )
        self.clients[settings.name] = client
        source = self.sources[settings.name] = kind.build(settings, client)
        poller = Poller(
            shown.rules,
            source,
            ledger,
            meter,
            api_clock=client,
            monotonic=self._outside.monotonic,
            sweep_interval=settings.sweep.interval if settings.sweep else None,
            pages=pages,
        )
        return Polled(settings.name, poller, meter, settings.poll_interval, auth_backoff=kind.auth_backoff)

    def interrupt(self) -> None:
        """Ends all waiting: polls under way stop before their next request."""
        self._stopping.set()

    def close(self) -> None:
        """Ends all connections."""
        for source in self.sources.values():
            source.close()
