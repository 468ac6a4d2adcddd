"""Brings what is committed onto the page: after each change, and when a series has shown its 0 for long enough."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import structlog

from exporter.config import Config
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.ledger.ledger import Ledger
from exporter.metrics.families import UNOBSERVED
from exporter.metrics.zero_first import Series, ZeroFirst
from exporter.snapshot.builder import ConfiguredSource, SnapshotBuilder, ViewBuilder
from exporter.snapshot.snapshot import Build, Ownership, Reload, Snapshot

REFRESH = 5.0
"""Seconds after which a page is made again although nothing was committed, for the process's own metrics."""

RELEASE_RETRY = 60.0
"""Seconds until a release that could not be committed is tried again: a full disk must not fill the log."""

MIN_PUBLISH_INTERVAL = 1.0
"""Least time between two pages during a poll, in seconds; its end always makes one."""

LEARN_BATCH = 10
"""Jobs whose past is read before others may have the ledger: some 25 ms."""

YIELD_SECONDS = 0.001
"""Seconds between."""

HELD = "unobserved"
"""The kind of owner that stands for a source's seconds that were found unobserved at the start."""


class Sharing(Protocol):
    """Many replicas of which this process is one. `rewound`: sources whose counters must not be served."""

    rewound: frozenset[str]

    def ownership(self) -> Ownership:
        """Return which replica this is, and what it polls."""


class Publisher:
    """Makes snapshots of what is committed, and pages of them. Thread-safe.

    Args:
        ledger: What is committed.
        exposition: Where pages are made.
        zero_first: Which series still show 0.
        monotonic: A clock that never jumps, in seconds.
        build: Which program is running.
        sleep: Waits for some seconds.

    Attributes:
        snapshot: The latest one, of which all readers show what they show.
    """

    def __init__(  # noqa: PLR0913  # everything outside is an argument
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
        """The replicas of which this process is one; None where the state is not shared."""
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
        """Follow a configuration from the next page on."""
        with self._lock:
            self._views = ViewBuilder(config, sources)
            self._builder.configure(self._views)
            self._withheld = frozenset()

    def reloaded(self, now: float) -> None:
        """Show that a configuration was applied."""
        self._reload = Reload(applied=now)

    def refused(self, error: str) -> None:
        """Show that a configuration was refused, and that the one before stays in force."""
        self._reload = msgspec.structs.replace(self._reload or Reload(), successful=False, error=error)

    def publish(self) -> None:
        """Make a page of all that is committed."""
        self._learn()
        with self._lock:
            with self._ledger.locked():
                self._withheld = self._to_withhold()
                committed = self._ledger.drain()
                exporter = msgspec.structs.replace(committed.exporter, build=self._build, reload=self._reload)
                if self.sharing is not None:
                    ownership = self.sharing.ownership()
                    exporter = msgspec.structs.replace(exporter, ownership=ownership, last_commit=ownership.last_commit)
                committed = msgspec.structs.replace(committed, exporter=exporter)
                snapshot = self._builder.build(committed, self._withheld)
            self._hold_unobserved(snapshot)
            self._exposition.render(snapshot)
            self.snapshot = snapshot
            self._published = self._monotonic()

    def _learn(self) -> None:
        """Learn from the past of the jobs that will be shown, a few at a time, so that polls can commit meanwhile."""
        # While the state cannot be written, nothing learned can be kept.
        due = [] if self._ledger.error else self._ledger.due_to_learn()
        for start in range(0, len(due), LEARN_BATCH):
            if start:
                self._sleep(YIELD_SECONDS)  # who has waited for the lock gets it only if nobody wants it at once
            try:
                self._ledger.learn(due[start : start + LEARN_BATCH])
            except StateError:
                return  # what was learned before is still there

    def publish_throttled(self) -> None:
        """Make a page unless one was just made: catching up must not make one for every window."""
        if self._monotonic() - self._published >= MIN_PUBLISH_INTERVAL:
            self.publish()

    def tick(self) -> None:
        """Expose what is due, and make a page if one is due. Called every second or so."""
        exposed = self._expose()
        with self._lock:
            overdue = self._monotonic() - self._published >= REFRESH or self._to_withhold() != self._withheld
        if exposed or overdue:
            self.publish()

    def _to_withhold(self) -> frozenset[str]:
        """Return the sources whose counters are not served yet, as no poll has been complete since the start."""
        if self.sharing is not None:
            return self.sharing.rewound
        longest = self._views.config.metrics.startup_hold if self._views else 0.0
        if self._monotonic() - self._started >= longest:
            late = self._ledger.starting() & self._withheld
            if late:
                self._log.warning("counters served as restored: no poll has been complete yet", sources=sorted(late))
            return frozenset()
        return frozenset(self._ledger.starting() & self._views.sources.keys()) if self._views else frozenset()

    def _hold_unobserved(self, snapshot: Snapshot) -> None:
        """Add seconds found unobserved at the start only when the restored value has been served for a while."""
        held: set[Series] = {
            ((HELD, name), UNOBSERVED, "") for name, source in snapshot.sources.items() if source.state.held_unobserved
        }
        new = held - self._held
        if new:
            self._zero_first.shown(snapshot.generation, new)
        self._held = held

    def _expose(self) -> bool:
        """Commit that series are exposed, then serve them. Without a state to write to they stay at 0."""
        due = self._zero_first.due(self._ledger.may_expose) if self._monotonic() >= self._release_after else []
        if not due:
            return False
        try:
            self._ledger.expose(due)
        except StateError as error:
            self._release_after = self._monotonic() + RELEASE_RETRY
            self._log.warning("could not commit zero-first release; series still exposed as 0", error=str(error))
            return False
        self._zero_first.forget(due)
        with self._lock:  # what is found meanwhile is held from its own page on
            self._held -= set(due)
        return True
