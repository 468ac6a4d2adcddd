"""Renders a snapshot as the page of `/metrics`, in two formats, each plain and compressed.

The page is a pure function of the snapshot and of the metrics that the client library keeps for the process. A family
has one block of lines per owner. Only the blocks of changed views are rendered again, and only families with changed
blocks are joined and compressed again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

import msgspec
import prometheus_client
import prometheus_client.openmetrics.exposition as openmetrics_exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exporter.counting.series import Count, Distribution
from exporter.exposition.gzipped import deflated, member
from exporter.exposition.textformat import EMPTY, Block, counter_block, header, histogram_block, prefix_of, sample_block
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Family, Kind, Level
from exporter.metrics.zero_first import Owner, Series, ZeroFirst
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import ExporterView, Snapshot
from exporter.snapshot.source import SourceView

Key = TypeVar("Key", int, str)

View = JobView | SourceView | ExporterView

LIMITED = frozenset(
    each.name for each in FAMILIES if each.level is Level.JOB or (each.samples is None and each.zero_first)
)
"""Families whose series jobrun_exporter_series counts: all families of jobs, and all other zero-first ones."""

COLLECT_INTERVAL = 2.5
"""Seconds after which the metrics of the client library are collected again.

With many sources, collecting takes much longer than rendering the changes of a poll.
"""


class Body(msgspec.Struct, frozen=True):
    """Rendered bytes in parts, because pages share unchanged parts."""

    parts: tuple[bytes, ...]

    @property
    def length(self) -> int:
        """Return the total length of the parts."""
        return sum(map(len, self.parts))

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


class MetricsPage(msgspec.Struct, frozen=True):
    """All metrics at one time, in two formats. A later page has a larger `generation`."""

    generation: int
    text: Body
    text_gzip: Body
    openmetrics: Body
    openmetrics_gzip: Body


class _Part(msgspec.Struct, frozen=True):
    """A part of a page, plain and compressed."""

    plain: bytes
    deflated: bytes

    @classmethod
    def of(cls, plain: bytes) -> "_Part":
        return cls(plain, deflated(plain))


class _FamilyBlocks:
    """The blocks of one family by owner, and the parts of the page that were rendered from them."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.series = 0
        self._headers = tuple(_Part.of(header(family, openmetrics=openmetrics)) for openmetrics in (False, True))
        self._blocks: dict[Owner, Block] = {}
        self._sorted = True
        self._owners_with_exemplars: set[Owner] = set()
        self._joined: tuple[_Part, _Part] | None = None

    def put(self, owner: Owner, block: Block) -> tuple[str, ...]:
        """Replace an owner's block. Return the label values of the old block's pending series."""
        old = self._blocks.get(owner, EMPTY)
        if block == old:
            return old.pending
        self._joined = None
        self.series += block.lines - old.lines
        (self._owners_with_exemplars.discard if block.rich is block.plain else self._owners_with_exemplars.add)(owner)
        if block.lines:
            self._sorted = self._sorted and owner in self._blocks
            self._blocks[owner] = block
        else:
            del self._blocks[owner]
        return old.pending

    def parts(self, *, openmetrics: bool) -> tuple[_Part, _Part]:
        """Return the header and the lines of the family in a format."""
        if not self._sorted:
            # All replicas must render a snapshot to the same bytes, no matter which owner came first.
            self._blocks = dict(sorted(self._blocks.items(), key=itemgetter(0)))
            self._sorted = True
        if self._joined is None:
            plain = _Part.of(b"".join([block.plain for block in self._blocks.values()]))
            rich = plain
            if self._owners_with_exemplars:
                rich = _Part.of(b"".join([block.rich for block in self._blocks.values()]))
            self._joined = plain, rich
        return self._headers[openmetrics], self._joined[openmetrics]


class Exposition:
    """Renders snapshots. `page` is replaced as a whole, so readers need no lock.

    Args:
        metrics: The registry with the families that the client library keeps.
        zero_first: Records the series that a page is the first to expose as 0.
        shared: Whether replicas share the state. Then families of the process are on a separate page.

    Attributes:
        page: The latest page; None before the first snapshot.
        process_page: The latest page of the process's own families, if the state is shared.
    """

    def __init__(
        self,
        metrics: Collector,
        zero_first: ZeroFirst,
        *,
        shared: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.page: MetricsPage | None = None
        self.process_page: MetricsPage | None = None
        self._shared = shared
        self._metrics = _ServedMetrics(metrics)
        self._zero_first = zero_first
        self._lock = threading.Lock()
        self._families = tuple(map(_FamilyBlocks, FAMILIES))
        self._levels = {level: [each for each in self._families if each.family.level is level] for level in Level}
        self._on_page = [each for each in self._families if not shared or each.family.level is not Level.PROCESS]
        self._snapshot = Snapshot()
        self._newly_pending: set[Series] = set()
        self._monotonic = monotonic
        self._collected = float("-inf")
        self._process_parts = _Part.of(b""), _Part.of(b"")

    def render(self, snapshot: Snapshot) -> MetricsPage:
        """Render a snapshot, and serve it from now on."""
        with self._lock:
            before, self._snapshot = self._snapshot, snapshot
            everything = before.excluded != snapshot.excluded
            self._update(Level.JOB, before.jobs, snapshot.jobs, everything=everything)
            self._update(Level.SOURCE, before.sources, snapshot.sources, everything=everything)
            self._put(Level.PROCESS, snapshot.exporter)
            # Rendered twice, because the numbers of series include the exporter's own, which must be rendered first.
            self._put(Level.EXPORTER, snapshot.exporter)
            self._put(Level.EXPORTER, msgspec.structs.replace(snapshot.exporter, series=self.series_by_family()))
            page = self.page = self._page(snapshot.generation, self._on_page, with_process=not self._shared)
            if self._shared:
                self.process_page = self._page(snapshot.generation, self._levels[Level.PROCESS], with_process=True)
            self._zero_first.shown(page.generation, self._newly_pending)
            self._newly_pending = set()
            return page

    def _update(self, level: Level, before: Mapping[Key, View], now: Mapping[Key, View], *, everything: bool) -> None:
        """Replace the blocks of changed views, or of all views."""
        # Views are frozen, and an unchanged view is the same object.
        changed = {key: view for key, view in now.items() if everything or before.get(key) is not view}
        renamed = {key for key in changed.keys() & before if changed[key].common_labels != before[key].common_labels}
        # Blocks of removed jobs are removed first, because a new job may have the same labels. Blocks of renamed jobs
        # are removed, too, because their series are pending again.
        for key in renamed.union(before.keys() - now.keys()):
            for blocks in self._levels[level]:
                self._replace(blocks, before[key].owner, EMPTY)
        for view in changed.values():
            self._put(level, view)

    def _put(self, level: Level, view: View) -> None:
        prefix = prefix_of(level, view.common_labels)
        for blocks in self._levels[level]:
            if blocks.family.name in self._snapshot.excluded:
                self._replace(blocks, view.owner, EMPTY)
                self._zero_first.not_served(_counted_before_exposed(blocks.family, view))
            else:
                self._replace(blocks, view.owner, block_of(blocks.family, prefix, view))

    def _replace(self, blocks: _FamilyBlocks, owner: Owner, block: Block) -> None:
        before = blocks.put(owner, block)
        if before == block.pending:
            return
        name = blocks.family.name
        self._newly_pending.update((owner, name, labels) for labels in set(block.pending).difference(before))
        ended = [(owner, name, labels) for labels in set(before).difference(block.pending)]
        self._newly_pending.difference_update(ended)
        # Series that are exposed or no longer on the page are not pending.
        self._zero_first.forget(ended)

    def series_by_family(self) -> Mapping[str, int]:
        """Return the number of sample lines of each family in LIMITED."""
        served = LIMITED - self._snapshot.excluded
        return {each.family.name: each.series for each in self._families if each.family.name in served}

    def _page(self, generation: int, families: Sequence[_FamilyBlocks], *, with_process: bool) -> MetricsPage:
        served = [each for each in families if each.family.name not in self._snapshot.excluded]
        text, rich = ([part for each in served for part in each.parts(openmetrics=rich)] for rich in (False, True))
        process_text, process_rich = self._collect() if with_process else (_Part.of(b""), _Part.of(b"# EOF\n"))
        return MetricsPage(generation, *_bodies([*text, process_text]), *_bodies([*rich, process_rich]))

    def _collect(self) -> tuple[_Part, _Part]:
        now = self._monotonic()
        excluded = self._snapshot.excluded
        if now - self._collected >= COLLECT_INTERVAL or self._metrics.excluded != excluded:
            self._collected, self._metrics.excluded = now, excluded
            rich = openmetrics_exposition.generate_latest(self._metrics)  # type: ignore[no-untyped-call] # the library's
            self._process_parts = _Part.of(prometheus_client.generate_latest(self._metrics)), _Part.of(rich)
        return self._process_parts


def block_of(family: Family, prefix: str, view: View) -> Block:
    """Return the lines of a family for a view. `prefix`: the labels that all series of the view have."""
    if family.samples is not None:
        return sample_block(family, prefix, family.labels_of(view), family.samples(view)) if view.gauged else EMPTY
    if not view.has_series(family.name):
        return EMPTY
    if family.kind is Kind.COUNTER:
        return counter_block(family, prefix, view.state.counts.get(family.name, {}))
    return histogram_block(family, prefix, view.state.distributions.get(family.name, {}))


def _counted_before_exposed(family: Family, view: View) -> Iterator[Series]:
    """Yield the series of an excluded family that have counted, but were never exposed."""
    # When the family is served again, these values must not follow a 0: old runs would look like new ones.
    if family.samples is not None or not family.zero_first or not view.has_series(family.name):
        return
    for table in (view.state.counts, view.state.distributions):
        series: Mapping[str, Count] | Mapping[str, Distribution] = table.get(family.name, {})
        yield from ((view.owner, family.name, key) for key, each in series.items() if each.counted > each.released)


def _bodies(parts: Sequence[_Part]) -> tuple[Body, Body]:
    """Return a page, plain and compressed."""
    plain = tuple(part.plain for part in parts if part.plain)
    return Body(plain), Body((member(plain, (part.deflated for part in parts)),))


class _ServedMetrics(Collector):
    """The metrics of a registry, without `_created` samples and without excluded families."""

    def __init__(self, metrics: Collector) -> None:
        self._metrics = metrics
        self.excluded: frozenset[str] = frozenset()

    def collect(self) -> Iterable[Metric]:
        """Return the served families without `_created` samples."""
        for metric in self._metrics.collect():
            # The library names a counter without `_total`.
            if self.excluded.isdisjoint((metric.name, f"{metric.name}_total")):
                metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
                yield metric
