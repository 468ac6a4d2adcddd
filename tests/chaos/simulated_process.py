"""One process of the exporter, from its start to its end: the parts of a daemon without threads and web server."""

from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import msgspec
import structlog
import yaml
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, NoPublisher, counting_rules
from exporter.config import Config, loads
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.exposition.publisher import Publisher
from exporter.ledger.housekeeping import expire_jobs, prune
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.metrics.zero_first import ZeroFirst
from exporter.polling.poll import Poller
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import OpenedState, open_state
from tests.chaos.crash_injector import CrashInjector

HOUSEKEEPING_INTERVAL = 3600.0

LedgerFactory = Callable[[Callable[[], OpenedState]], Ledger]
"""Returns a ledger: the exporter's, or a mutant."""


class ProcessEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks, network and ledger of a process. `sleep` moves the clock."""

    clock: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], bool | None]
    transport: httpx.BaseTransport
    ledger: LedgerFactory = Ledger


def load_config(settings: Mapping[str, object]) -> Config:
    """Load a config as the daemon does."""
    return loads(yaml.safe_dump(dict(settings)), {}, KNOWN_NAMES)


class SimulatedProcess:
    """A process. `crash_injector` makes it crash. After a crash only `close_after_crash` may be called."""

    def __init__(self, settings: Mapping[str, object], state: Path, around: ProcessEnvironment) -> None:
        self.crash_injector = CrashInjector()
        self.state = state
        self._environment = around
        self._config = load_config(settings)
        self._registry = CollectorRegistry()
        self._metrics = RequestMetrics(self._registry)
        self._pending_series = ZeroFirst(self._config.metrics.zero_first, around.monotonic)
        self._exposition = Exposition(CollectorRegistry(), self._pending_series)
        self.ledger = around.ledger(self._open)
        self._publisher = Publisher(self.ledger, self._exposition, self._pending_series, monotonic=around.monotonic)
        self._clocks = Clocks(
            clock=self._clock, monotonic=around.monotonic, sleep=around.sleep, transport=around.transport
        )
        self._last_housekeeping = around.monotonic()
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Start as the daemon does, also with a state that cannot be written: each poll tries again to open it."""
        try:
            self.ledger.load()
        except StateError as error:
            self._log.error("state cannot be written", error=str(error))
        self._assembly = self._new_assembly(self._config)
        self._apply(self._config)
        self._publisher.publish()

    def _open(self) -> OpenedState:
        return open_state(self.state, self._clock, self.crash_injector.connect)

    def _clock(self) -> float:
        self.crash_injector.on_clock_read()
        return self._environment.clock()

    def _new_assembly(self, config: Config, before: Assembly | None = None) -> Assembly:
        assembly = Assembly(config, self.ledger, self._metrics, self._publisher, self._clocks, before=before)
        for source in assembly.scheduled:
            # Pages are rendered only for scrapes. Rendering a page per poll would take most of the time.
            source.poller._publisher = NoPublisher()
        return assembly

    def _apply(self, config: Config) -> None:
        rules = {name: source.rules for name, source in self._assembly.configured.items()}
        self.ledger.configure(rules, counting_rules(config), config.metrics.step_histograms)
        self._pending_series.zero_first = config.metrics.zero_first
        self._publisher.configure(config, self._assembly.configured)

    @property
    def pollers(self) -> Mapping[str, Poller]:
        """Return the pollers of all configured sources, by source."""
        return {source.name: source.poller for source in self._assembly.scheduled}

    def reload(self, settings: Mapping[str, object]) -> None:
        """Reload as the daemon does."""
        config = load_config(settings)
        before = self._assembly
        after = self._new_assembly(config, before)
        self.ledger.check({name: source.rules for name, source in after.configured.items()})
        before.interrupt(after)
        before.close(after)
        self._assembly = after
        self._apply(config)
        for name in before.configured.keys() - after.configured.keys():
            self._metrics.remove(name)
        self._config = config
        self._publisher.publish()

    def tick(self) -> None:
        """Do what the daemon's heartbeat does in one tick."""
        self._publisher.tick()
        now = self._environment.monotonic()
        if now - self._last_housekeeping < HOUSEKEEPING_INTERVAL:
            return
        self._last_housekeeping = now
        try:
            expire_jobs(self.ledger, self._clock(), self._config.metrics.job_expiry)
            prune(self.ledger, self._clock(), self._config.state.retention)
        except StateError as error:
            self._log.warning("state could not be pruned", error=str(error))

    def scrape(self) -> str:
        """Return `/metrics` in text format. Record that a scrape has read it."""
        self._publisher.publish()
        page = self._exposition.page
        assert page is not None
        self._pending_series.scraped(page.generation)
        return bytes(page.text).decode()

    def stop(self) -> None:
        """Stop cleanly."""
        self._assembly.close()
        self.ledger.close()

    def close_after_crash(self) -> None:
        """Close the client and the files of a crashed process."""
        if hasattr(self, "_assembly"):
            self._assembly.close()
        self.crash_injector.close_connections()
