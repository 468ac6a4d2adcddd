"""Renders committed records after each change, and exposes the values of series that were served as 0 long enough."""

import threading
import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from exporter.config import Config
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.ledger.exposing import expose, may_expose
from exporter.ledger.learning import due_to_learn, learn_from
from exporter.ledger.ledger import Ledger
from exporter.metrics.families import UNOBSERVED
from exporter.metrics.zero_first import Owner, Series, ZeroFirst
from exporter.snapshot.builder import ConfiguredSource, SnapshotBuilder, ViewBuilder
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import Build, ExporterView, Ownership, Reload, Snapshot

REFRESH = 5.0
"""Seconds after which a page is rendered even without a commit, for the process's own metrics."""

EXPOSE_RETRY = 60.0
"""Seconds until a failed attempt to expose series is repeated, so that a full disk does not fill the log."""

MIN_PUBLISH_INTERVAL = 1.0
"""Minimum seconds between two pages during a poll. The end of a poll always renders one."""

LEARN_BATCH = 10
"""Number of jobs to learn from before the ledger's lock is released. They take about 25 ms."""

YIELD_SECONDS = 0.001
"""Seconds for which the lock is released between two batches of jobs."""


class Publisher:
    """Builds snapshots of committed records and renders them. Thread-safe.

    Attributes:
        snapshot: The latest snapshot, which all readers use.
        ownership: Returns what this process knows as one of many replicas; None if the state is not shared.
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
        self.snapshot = Snapshot()
        self.ownership: Callable[[], Ownership] | None = None
        self._ledger = ledger
        self._exposition = exposition
        self._zero_first = zero_first
        self._monotonic = monotonic
        self._build = build
        self._sleep = sleep
        self._config: Config | None = None
        self._builder: SnapshotBuilder | None = None
        self._started = monotonic()
        self._published = float("-inf")
        self._next_attempt = float("-inf")
        self._lock = threading.Lock()
        self._withheld: frozenset[str] = frozenset()
        self._pending_unobserved: set[Series] = set()
        self._reload: Reload | None = None
        self._log = structlog.get_logger()

    def configure(self, config: Config, sources: Mapping[str, ConfiguredSource]) -> None:
        """Use a config from the next page on."""
        with self._lock:
            latest = Snapshot(generation=-1) if self._builder is None else self._builder.latest
            self._config, self._builder = config, SnapshotBuilder(ViewBuilder(config, sources), latest)
            self._withheld = frozenset()

    def reloaded(self, now: float) -> None:
        """Record that a config was applied."""
        self._reload = Reload(applied=now)

    def refused(self, error: str) -> None:
        """Record that a config was refused and the previous one stays active."""
        self._reload = msgspec.structs.replace(self._reload or Reload(), successful=False, error=error)

    def publish(self) -> None:
        """Render a page of all committed records."""
        self._learn()
        with self._lock:
            if self._builder is None:
                return
            with self._ledger.lock:
                self._withheld = self._to_withhold()
                committed = self._ledger.drain()
                exporter = self._complete(committed.exporter)
                snapshot = self._builder.build(msgspec.structs.replace(committed, exporter=exporter), self._withheld)
            self._add_pending_unobserved(snapshot)
            self._exposition.render(snapshot)
            self.snapshot = snapshot
            self._published = self._monotonic()

    def _complete(self, exporter: ExporterView) -> ExporterView:
        """Return the view of the exporter with what the ledger does not know."""
        exporter = msgspec.structs.replace(exporter, build=self._build, reload=self._reload)
        if self.ownership is None:
            return exporter
        ownership = self.ownership()
        return msgspec.structs.replace(
            exporter, ownership=ownership, last_commit=ownership.last_commit, state_size=ownership.state_size
        )

    def _learn(self) -> None:
        """Learn from the past runs of changed jobs, a few at a time, so that polls can commit in between."""
        # Learned values cannot be stored while the state cannot be written.
        due = [] if self._ledger.error else due_to_learn(self._ledger)
        for start in range(0, len(due), LEARN_BATCH):
            if start:
                self._sleep(YIELD_SECONDS)  # lets a waiting thread take the lock
            try:
                learn_from(self._ledger, due[start : start + LEARN_BATCH])
            except StateError:
                return  # the values learned before are still used

    def publish_throttled(self) -> None:
        """Render a page unless one was rendered less than MIN_PUBLISH_INTERVAL ago."""
        if self._monotonic() - self._published >= MIN_PUBLISH_INTERVAL:
            self.publish()

    def tick(self) -> None:
        """Expose due series, and render a page if one is due. The heartbeat calls this."""
        exposed = self._expose()
        with self._lock:
            overdue = self._monotonic() - self._published >= REFRESH or self._to_withhold() != self._withheld
        if exposed or overdue:
            self.publish()

    def _to_withhold(self) -> frozenset[str]:
        """Return the sources whose counters are withheld, because no poll has been complete since the start."""
        if self._config is None:
            return frozenset()
        if self.ownership is not None:
            return self.ownership().rewound
        if self._monotonic() - self._started < self._config.metrics.startup_hold:
            return self._ledger.starting & {source.name for source in self._config.sources}
        late = self._ledger.starting & self._withheld
        if late:
            self._log.warning("first complete poll is late; serving restored counters", sources=sorted(late))
        return frozenset()

    def _add_pending_unobserved(self, snapshot: Snapshot) -> None:
        """Let new unobserved seconds wait until a scrape has read the restored value of their counter."""
        pending: set[Series] = {
            (("unobserved", name), UNOBSERVED, "")
            for name, source in snapshot.sources.items()
            if source.state.pending_unobserved
        }
        self._zero_first.shown(snapshot.generation, pending - self._pending_unobserved)
        self._pending_unobserved = pending

    def _expose(self) -> bool:
        """Commit that due series are exposed. Return whether there were any. If the commit fails, they stay at 0."""
        if self._monotonic() < self._next_attempt:
            return False
        shown = self.snapshot.jobs  # read before `due`: a page that is published in between restarts the wait
        due = self._zero_first.due(lambda owner: may_expose(self._ledger, owner))
        if not due:
            return False
        try:
            with self._ledger.lock:
                # The new name of a renamed job must show 0 first.
                due = [each for each in due if not self._is_renamed(each[0], shown)]
                expose(self._ledger, due)
        except StateError as error:
            self._next_attempt = self._monotonic() + EXPOSE_RETRY
            self._log.warning("could not commit zero-first release; series still exposed as 0", error=str(error))
            return False
        self._zero_first.forget(due)
        with self._lock:  # unobserved seconds that were found in the meantime keep waiting
            self._pending_unobserved -= set(due)
        return True

    def _is_renamed(self, owner: Owner, shown: Mapping[int, JobView]) -> bool:
        """Return whether the owner of a series is a job that was renamed after these views were built."""
        jobs = self._ledger.committed.jobs
        match owner:
            case ("job", int(key)) if key in shown and key in jobs:
                before = shown[key].state
                return (jobs[key].project, jobs[key].name) != (before.project, before.name)
        return False
