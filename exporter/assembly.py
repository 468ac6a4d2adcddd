"""Builds the sources of a config with everything that they need."""

import threading
import time
from collections.abc import Callable, Collection, Sequence

import httpx
import msgspec

from exporter.client.budget import Budget
from exporter.client.client import Client, Environment, NetworkSettings
from exporter.config import Config
from exporter.config.source import SourceSettings
from exporter.counting.counters import CountingRules
from exporter.counting.names import STEP_DURATION
from exporter.counting.records import JobState
from exporter.counting.rules import SourceRules
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.metrics.room import overflow_room, series_needed
from exporter.polling.poll import Poller, RecordPublisher
from exporter.polling.schedule import ScheduledSource
from exporter.snapshot.builder import ConfiguredSource
from exporter.snapshot.expectations import objective_of
from exporter.snapshot.job import JobView
from exporter.sources import SOURCES
from exporter.sources.source import Source


def boottime() -> float:
    """Return the seconds since the machine started, including those in which it was suspended."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # elsewhere CLOCK_MONOTONIC includes them
    return time.clock_gettime(clock)


class Clocks(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks, sleep and network. Tests replace them. `sleep` returns True if the process is shutting down."""

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], bool | None] | None = None
    boottime: Callable[[], float] = boottime


class NoPublisher:
    """A publisher for commands that serve no pages."""

    def publish(self) -> None:
        """Publish nothing."""

    def publish_throttled(self) -> None:
        """Publish nothing."""


def counting_rules(config: Config) -> CountingRules:
    """Return the counting rules of a config."""
    return CountingRules(
        step_buckets=config.metrics.step_buckets,
        zero_first=config.metrics.zero_first > 0,
        excluded=frozenset(config.metrics.exclude),
    )


def room_for_jobs(config: Config) -> int:
    """Return how many series jobs may have: `metrics.max_series`, minus what the `__other__` jobs may need."""
    metrics = config.metrics
    excluded = {*metrics.exclude, *([STEP_DURATION] if metrics.step_histograms == "off" else [])}
    room = metrics.max_series
    for settings in config.sources:
        kind = SOURCES[settings.type]
        steps = metrics.step_buckets if kind.has_steps and settings.steps != "off" else None
        room -= overflow_room(
            kind.results, metrics.run_buckets, steps, has_attempts=kind.has_attempts, excluded=excluded
        )
    return room


def rules_of(settings: SourceSettings, config: Config) -> SourceRules:
    """Return the ledger's rules for a source."""
    kind = SOURCES[settings.type]
    steps = settings.steps if kind.has_steps else "off"

    def buckets(job: JobState) -> tuple[float, ...]:
        objective = objective_of(config, job)
        return (objective and objective.run_buckets) or config.metrics.run_buckets

    def series(job: JobState, step_histograms: bool) -> int:  # noqa: FBT001  # as SourceRules has it
        view = JobView(state=job, results=kind.results, has_steps=steps != "off", step_histograms=step_histograms)
        return series_needed(view, buckets(job), config.metrics.step_buckets, frozenset(config.metrics.exclude))

    return SourceRules(
        name=settings.name,
        identity=kind.identity(settings),
        results=kind.results,
        has_attempts=kind.has_attempts,
        steps=steps,
        reopens=kind.reopens,
        max_run_age=settings.max_run_age,
        reach=kind.reach,
        poll_interval=settings.poll_interval,
        settle=settings.settle,
        include=tuple(map(str, settings.jobs.include)),
        exclude=tuple(map(str, settings.jobs.exclude)),
        max_series=room_for_jobs(config),
        series_of=series,
        run_buckets=buckets,
        has_objective=lambda job: objective_of(config, job) is not None,
    )


def configured_source(settings: SourceSettings, config: Config) -> ConfiguredSource:
    """Return what snapshots need to know about a source in the config."""
    api_url = SOURCES[settings.type].access(settings).root
    return ConfiguredSource(settings=settings, rules=rules_of(settings, config), api_url=api_url)


class _Account(msgspec.Struct, frozen=True):
    """Sources with the same credential. They share a budget, and a reload keeps or replaces all of them.

    `stopping`: makes their polls stop before the next request.
    """

    settings: tuple[SourceSettings, ...]
    budget: Budget
    stopping: threading.Event


class Assembly:
    """The sources of one config, with everything that they need.

    Args:
        before: The assembly that this one replaces. Sources with an unchanged config are kept, with their sign-in,
            budget and cached rows. Sources with TLS files are not, because the files may have changed.
        replicas: Returns how many replicas share the sources.

    Attributes:
        configured: What snapshots need to know about each source, by name.
        scheduled: The sources with their pollers, in the order of the config.
    """

    def __init__(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
        self,
        config: Config,
        ledger: Ledger,
        metrics: RequestMetrics,
        publisher: RecordPublisher,
        clocks: Clocks,
        *,
        before: "Assembly | None" = None,
        replicas: Callable[[], int] = lambda: 1,
    ) -> None:
        self.config = config
        self._replicas = replicas
        self._ledger, self._metrics, self._publisher, self._clocks = ledger, metrics, publisher, clocks
        by_credential: dict[str, list[SourceSettings]] = {}
        for settings in config.sources:
            by_credential.setdefault(_credential(settings), []).append(settings)
        known = before._accounts if before else {}  # noqa: SLF001  # our own class
        self._accounts: dict[str, _Account] = {
            each: self._account(tuple(group), known.get(each)) for each, group in by_credential.items()
        }
        self.configured = {settings.name: configured_source(settings, config) for settings in config.sources}
        self.sources: dict[str, Source] = {}
        self.clients: dict[str, Client] = {}
        self.scheduled = [self._reused(each.settings, before) or self._build(each) for each in self.configured.values()]

    def _account(self, settings: tuple[SourceSettings, ...], before: _Account | None) -> _Account:
        has_files = any(each.tls.ca_file or each.tls.cert_file for each in settings)
        if before is not None and before.settings == settings and not has_files:
            return before
        return self._new_account(settings, before)

    def _new_account(
        self, settings: tuple[SourceSettings, ...], before: _Account | None, request_ages: Sequence[float] = ()
    ) -> _Account:
        stopping = threading.Event()
        budget = Budget(
            min(each.requests_per_minute for each in settings),
            monotonic=self._clocks.monotonic,
            sleep=self._clocks.sleep or stopping.wait,
            # A replica may notice late that it has lost a lease, for example while its database does not respond.
            stopping=lambda: stopping.is_set() or not all(self._ledger.owns(each.name) for each in settings),
            processes=self._replicas,
            before=before.budget if before else None,
        )
        budget.add_requests(request_ages)
        return _Account(settings, budget, stopping)

    def configure(self) -> None:
        """Apply the config to the ledger."""
        rules = {name: each.rules for name, each in self.configured.items()}
        self._ledger.configure(rules, counting_rules(self.config), self.config.metrics.step_histograms)

    def _reused(self, settings: SourceSettings, before: "Assembly | None") -> ScheduledSource | None:
        """Return a source of `before` with its poller; None if it must be built again."""
        name, credential = settings.name, _credential(settings)
        if before is None or before._accounts.get(credential) is not self._accounts[credential]:  # noqa: SLF001  # as above
            return None
        self.sources[name], self.clients[name] = before.sources[name], before.clients[name]
        return next(each for each in before.scheduled if each.name == name)

    def groups(self) -> list[frozenset[str]]:
        """Return the names of the sources, grouped by credential."""
        return [frozenset(each.name for each in account.settings) for account in self._accounts.values()]

    def interrupt_sources(self, names: Collection[str]) -> None:
        """Stop polls of these sources before their next request. `names`: all sources of one or more credentials."""
        for account in self._accounts.values():
            if any(each.name in names for each in account.settings):
                account.stopping.set()

    def replace_sources(self, names: Collection[str], request_ages: Sequence[float]) -> list[ScheduledSource]:
        """Replace sources of one credential that another replica has polled in the meantime. Return the new ones.

        `request_ages`: seconds since each request of that replica that still uses the credential's budget.
        """
        for credential, account in list(self._accounts.items()):
            if any(each.name in names for each in account.settings):
                self._accounts[credential] = self._new_account(account.settings, account, request_ages)
        for name in names:
            self.sources[name].close()
        new = {name: self._build(self.configured[name]) for name in names}
        self.scheduled = [new.get(each.name, each) for each in self.scheduled]
        return list(new.values())

    def _build(self, configured: ConfiguredSource) -> ScheduledSource:
        settings = configured.settings
        kind = SOURCES[settings.type]
        access = kind.access(settings)
        requests = self._metrics.source(settings.name, kind.endpoints)
        account = self._accounts[access.credential]
        sleep = self._clocks.sleep or account.stopping.wait
        client = Client(
            access.root,
            access.auth,
            account.budget,
            recorder=requests,
            network=NetworkSettings(
                timeout=settings.timeout,
                ca_file=settings.tls.ca_file,
                cert_file=settings.tls.cert_file,
                key_file=settings.tls.key_file,
                proxy_url=settings.proxy_url,
            ),
            environment=Environment(clock=self._clocks.clock, monotonic=self._clocks.monotonic, sleep=sleep),
            transport=self._clocks.transport,
            source=settings.name,
            rate_limit_wait=kind.rate_limit_wait,
        )
        self.clients[settings.name] = client
        source = self.sources[settings.name] = kind.build(settings, client)
        poller = Poller(
            configured.rules,
            source,
            self._ledger,
            requests,
            api_clock=client,
            monotonic=self._clocks.monotonic,
            sweep_interval=settings.sweep.interval if settings.sweep else None,
            publisher=self._publisher,
            auth_backoff=kind.auth_backoff,
        )
        requests.set_credential_expiry(settings.credential_expires)  # replaced if the sign-in reports another
        return ScheduledSource(settings.name, poller, settings.poll_interval)

    def interrupt(self, after: "Assembly | None" = None) -> None:
        """Stop polls before their next request. Sources that the assembly `after` has kept go on."""
        shared = after._accounts.values() if after else ()  # noqa: SLF001  # as above
        for account in self._accounts.values():
            if not any(account is each for each in shared):
                account.stopping.set()

    def resume(self) -> None:
        """Undo `interrupt`."""
        for account in self._accounts.values():
            account.stopping.clear()

    def close(self, after: "Assembly | None" = None) -> None:
        """Close the connections. Those of sources that the assembly `after` has kept stay open."""
        shared = after.sources.values() if after else ()
        for source in self.sources.values():
            if not any(source is each for each in shared):
                source.close()


def _credential(settings: SourceSettings) -> str:
    return SOURCES[settings.type].access(settings).credential
