"""Renders committed records after each change. Exposes the values of series that were served as 0 long enough."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import structlog

from exporter.config import Config
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.ledger.exposing import expose, may_expose
from exporter.ledger.learning import due_to_learn, learn_from
from exporter.ledger.ledger import Ledger
from exporter.metrics.families import UNOBSERVED
from exporter.metrics.zero_first import Series, ZeroFirst
from exporter.snapshot.builder import ConfiguredSource, SnapshotBuilder, ViewBuilder
from exporter.snapshot.snapshot import Build, Ownership, Reload, Snapshot

REFRESH = 5.0
"""Seconds after which a page is rendered even without a commit, for the process's own metrics."""

RELEASE_RETRY = 60.0
"""Seconds until a failed attempt to expose series is repeated, so that a full disk does not fill the log."""

MIN_PUBLISH_INTERVAL = 1.0
"""Minimum seconds between two pages during a poll. The end of a poll always renders one."""

LEARN_BATCH = 10
"""Jobs to learn about while the ledger's lock is held: about 25 ms."""

YIELD_SECONDS = 0.001
"""Seconds for which the lock is released between two batches."""

HELD = "unobserved"
"""Kind of owner of pending unobserved seconds, until they are added to their counter."""


class Sharing(Protocol):
    """The replicas that share the state."""

    @property
    def rewound(self) -> frozenset[str]:
        """Return the sources whose counters must not be served."""

    def ownership(self) -> Ownership:
        """Return which replica this is, and which sources it polls."""


class Publisher:
    """Builds snapshots of committed records and renders them. Thread-safe.

    Attributes:
        snapshot: The latest snapshot, which all readers use.
    """

    def __init__(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
        self,
        ledger: Ledger,
        exposition: Exposition,
        zero_first: ZeroFirst,
        *,
        monotonic: Callable[[], float],
        build: Build | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.sharing: Sharing | None = None
        """The replicas that share the state; None if it is not shared."""
        self._ledger = ledger
        self._exposition = exposition
        self._zero_first = zero_first
        self._monotonic = monotonic
        self._build = build
        self._sleep = sleep
        self._builder = SnapshotBuilder()
        self._started = monotonic()
        self._published = float("-inf")
        self._release_after = float("-inf")
        self._views: ViewBuilder | None = None
        self._lock = threading.Lock()
        self._withheld: frozenset[str] = frozenset()
        self._held: set[Series] = set()
        self._reload: Reload | None = None
        self._log = structlog.get_logger()
        self.snapshot = Snapshot()

    def configure(self, config: Config, sources: Mapping[str, ConfiguredSource]) -> None:
        """Use a config from the next page on."""
        with self._lock:
            self._views = ViewBuilder(config, sources)
            self._builder.configure(self._views)
            self._withheld = frozenset()

    def reloaded(self, now: float) -> None:
        """Record that a config was applied."""
        self._reload = Reload(applied=now)

    def refused(self, error: str) -> None:
        """Record that a config was refused and the previous one stays active."""
        self._reload = msgspec.structs.replace(self._reload or Reload(), successful=False, error=error)

    def publish(self) -> None:
        """Render all committed records."""
        self._learn()
        with self._lock:
            with self._ledger.lock:
                self._withheld = self._to_withhold()
                committed = self._ledger.drain()
                exporter = msgspec.structs.replace(committed.exporter, build=self._build, reload=self._reload)
                if self.sharing is not None:
                    ownership = self.sharing.ownership()
                    exporter = msgspec.structs.replace(
                        exporter,
                        ownership=ownership,
                        last_commit=ownership.last_commit,
                        state_size=ownership.state_size,
                    )
                committed = msgspec.structs.replace(committed, exporter=exporter)
                snapshot = self._builder.build(committed, self._withheld)
            self._hold_unobserved(snapshot)
            self._exposition.render(snapshot)
            self.snapshot = snapshot
            self._published = self._monotonic()

    def _learn(self) -> None:
        """Learn from the past runs of changed jobs, a few at a time, so that polls can commit in between."""
        # While the state cannot be written, learned values cannot be stored.
        due = [] if self._ledger.error else due_to_learn(self._ledger)
        for start in range(0, len(due), LEARN_BATCH):
            if start:
                self._sleep(YIELD_SECONDS)  # gives a waiting thread the lock
            try:
                learn_from(self._ledger, due[start : start + LEARN_BATCH])
            except StateError:
                return  # earlier learned values are still used

    def publish_throttled(self) -> None:
        """Render a page unless one was rendered less than a second ago."""
        if self._monotonic() - self._published >= MIN_PUBLISH_INTERVAL:
            self.publish()

    def tick(self) -> None:
        """Expose due series, and render a page if one is due. Called about every second."""
        exposed = self._expose()
        with self._lock:
            overdue = self._monotonic() - self._published >= REFRESH or self._to_withhold() != self._withheld
        if exposed or overdue:
            self.publish()

    def _to_withhold(self) -> frozenset[str]:
        """Return the sources whose counters are withheld, because no poll has been complete since the start."""
        if self.sharing is not None:
            return self.sharing.rewound
        longest = self._views.config.metrics.startup_hold if self._views else 0.0
        if self._monotonic() - self._started >= longest:
            late = self._ledger.starting & self._withheld
            if late:
                self._log.warning("counters served as restored: no poll has been complete yet", sources=sorted(late))
            return frozenset()
        return frozenset(self._ledger.starting & self._views.sources.keys()) if self._views else frozenset()

    def _hold_unobserved(self, snapshot: Snapshot) -> None:
        """Let pending unobserved seconds wait until the restored value of their counter was scraped."""
        held: set[Series] = {
            ((HELD, name), UNOBSERVED, "")
            for name, source in snapshot.sources.items()
            if source.state.pending_unobserved
        }
        new = held - self._held
        if new:
            self._zero_first.shown(snapshot.generation, new)
        self._held = held

    def _expose(self) -> bool:
        """Commit that due series are exposed. Return whether there were any. If the commit fails, they stay at 0."""
        due = (
            self._zero_first.due(lambda owner: may_expose(self._ledger, owner))
            if self._monotonic() >= self._release_after
            else []
        )
        if not due:
            return False
        try:
            expose(self._ledger, due)
        except StateError as error:
            self._release_after = self._monotonic() + RELEASE_RETRY
            self._log.warning("could not commit zero-first release; series still exposed as 0", error=str(error))
            return False
        self._zero_first.forget(due)
        with self._lock:  # seconds that were found in the meantime keep waiting
            self._held -= set(due)
        return True
