"""One process of the exporter, from its start to its end: the daemon's parts, without threads and web server."""

from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import msgspec
import structlog
import yaml
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, NoPages, counting_rules
from exporter.config import Config, loads
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.exposition.publisher import Publisher
from exporter.ledger.housekeeping import expire_jobs, prune
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.metrics.zero_first import ZeroFirst
from exporter.polling.schedule import ScheduledSource
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import OpenedState, open_state
from tests.chaos.crashable import Crashable

HOUSEKEEPING = 3600.0

LedgerKind = Callable[[Callable[[], OpenedState]], Ledger]
"""Returns a ledger. The auditor's tests replace it by a broken one."""


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """The environment of a process. `sleep` moves the clock."""

    clock: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], bool | None]
    transport: httpx.BaseTransport
    ledger: LedgerKind = Ledger


def configured(settings: Mapping[str, object]) -> Config:
    """Return the configuration as the daemon would read it."""
    return loads(yaml.safe_dump(dict(settings)), {}, KNOWN_NAMES)


class Life:
    """A process. `crashable` decides when it crashes; after that only `bury` may be called."""

    def __init__(self, settings: Mapping[str, object], state: Path, around: Around) -> None:
        self.crashable = Crashable()
        self.state = state
        self._around = around
        self._config = configured(settings)
        self._registry = CollectorRegistry()
        self._metrics = RequestMetrics(self._registry)
        self._pending_series = ZeroFirst(self._config.metrics.zero_first, around.monotonic)
        self._exposition = Exposition(CollectorRegistry(), self._pending_series)
        self.ledger = around.ledger(self._open)
        self._publisher = Publisher(self.ledger, self._exposition, self._pending_series, monotonic=around.monotonic)
        self._outside = Clocks(
            clock=self._clock, monotonic=around.monotonic, sleep=around.sleep, transport=around.transport
        )
        self._kept_house = around.monotonic()
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Start as the daemon does: each poll tries again to open a state that cannot be written."""
        try:
            self.ledger.load()
        except StateError as error:
            self._log.error("state cannot be written", disruption=str(error))
        self._assembly = self._assembled(self._config)
        self._take_up(self._config)
        self._publisher.publish()

    def _open(self) -> OpenedState:
        return open_state(self.state, self._clock, self.crashable.connect)

    def _clock(self) -> float:
        self.crashable.snapshot()
        return self._around.clock()

    def _assembled(self, config: Config, before: Assembly | None = None) -> Assembly:
        assembly = Assembly(config, self.ledger, self._metrics, self._publisher, self._outside, before=before)
        for polled in assembly.scheduled:
            # Pages are rendered only for scrapes. Rendering one per poll would take most of the time.
            polled.poller._pages = NoPages()
        return assembly

    def _take_up(self, config: Config) -> None:
        rules = {name: shown.rules for name, shown in self._assembly.configured.items()}
        self.ledger.configure(rules, counting_rules(config), config.metrics.step_histograms)
        self._pending_series.zero_first = config.metrics.zero_first
        self._publisher.configure(config, self._assembly.configured)

    @property
    def polled(self) -> Mapping[str, ScheduledSource]:
        """Return the polled sources by name."""
        return {polled.name: polled for polled in self._assembly.scheduled}

    def reload(self, settings: Mapping[str, object]) -> None:
        """Reload as the daemon does."""
        config = configured(settings)
        before = self._assembly
        after = self._assembled(config, before)
        self.ledger.check({name: shown.rules for name, shown in after.configured.items()})
        before.interrupt(after)
        before.close(after)
        self._assembly = after
        self._take_up(config)
        for name in before.configured.keys() - after.configured.keys():
            self._metrics.remove(name)
        self._config = config
        self._publisher.publish()

    def tick(self) -> None:
        """Do what the daemon's heartbeat does."""
        self._publisher.tick()
        now = self._around.monotonic()
        if now - self._kept_house < HOUSEKEEPING:
            return
        self._kept_house = now
        try:
            expire_jobs(self.ledger, self._clock(), self._config.metrics.job_expiry)
            prune(self.ledger, self._clock(), self._config.state.retention)
        except StateError as error:
            self._log.warning("state could not be pruned", disruption=str(error))

    def scrape(self) -> str:
        """Return the page as Prometheus gets it."""
        self._publisher.publish()
        page = self._exposition.page
        assert page is not None
        self._pending_series.scraped(page.generation)
        return bytes(page.text).decode()

    def stop(self) -> None:
        """Stop cleanly."""
        self._assembly.close()
        self.ledger.close()

    def bury(self) -> None:
        """Close what is left of a crashed process."""
        if hasattr(self, "_assembly"):
            self._assembly.close()
        self.crashable.bury()
