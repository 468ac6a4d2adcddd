"""Renders a snapshot as the page of `/metrics`, in two formats, each plain and compressed.

The page is a pure function of the snapshot and of the process's own metrics, which the client library keeps. Each job
and source has a small block of lines in each family. Only the blocks of changed views are rendered again, and only the
families with such blocks are joined and compressed again.
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
"""Families that jobrun_exporter_series counts: families of jobs, and some of sources with labels from vendors."""

COLLECT_INTERVAL = 2.5
"""Seconds after which the process's own metrics are collected again.

With many sources, collecting takes much longer than rendering the changes of a poll.
"""


class Body(msgspec.Struct, frozen=True):
    """Rendered bytes in parts. Pages share equal parts. `length`: total length of the parts."""

    parts: tuple[bytes, ...]
    length: int

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> "Body":
        """Return a body of these parts without empty ones."""
        kept = tuple(part for part in parts if part)
        return cls(kept, sum(map(len, kept)))

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


class Page(msgspec.Struct, frozen=True):
    """All metrics at one time. A later page has a larger `generation`."""

    generation: int
    text: Body
    text_gzip: Body
    openmetrics: Body
    openmetrics_gzip: Body


class _Lines(msgspec.Struct, frozen=True):
    """The joined lines of a family, plain and compressed."""

    plain: bytes
    deflated: bytes

    @classmethod
    def of(cls, plain: bytes) -> "_Lines":
        return cls(plain, deflated(plain))


class _FamilyBlocks:
    """The blocks of one family, and its last rendered lines."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.series = 0
        self._heads = tuple(_Lines.of(header(family, openmetrics=openmetrics)) for openmetrics in (False, True))
        self._blocks: dict[Owner, Block] = {}
        self._sorted = True
        self._exemplified: set[Owner] = set()
        self._made: tuple[_Lines, _Lines] | None = None

    def put(self, owner: Owner, block: Block) -> tuple[str, ...]:
        """Replace an owner's block. Return the label values of the old block's pending series."""
        old = self._blocks.get(owner, EMPTY)
        if block == old:
            return old.pending
        self._made = None
        self.series += block.lines - old.lines
        (self._exemplified.discard if block.rich is block.plain else self._exemplified.add)(owner)
        if block.lines:
            self._sorted = self._sorted and owner in self._blocks
            self._blocks[owner] = block
        else:
            del self._blocks[owner]
        return old.pending

    def parts(self, *, openmetrics: bool) -> tuple[_Lines, _Lines]:
        """Return the header and the lines in a format."""
        if self._made is None:
            self._sort()
            plain = _Lines.of(b"".join([block.plain for block in self._blocks.values()]))
            rich = plain
            if self._exemplified:
                rich = _Lines.of(b"".join([block.rich for block in self._blocks.values()]))
            self._made = plain, rich
        return self._heads[openmetrics], self._made[openmetrics]

    def _sort(self) -> None:
        # Each process must render a snapshot to the same bytes, so the order must not depend on which owner came first.
        if not self._sorted:
            self._blocks = dict(sorted(self._blocks.items(), key=itemgetter(0)))
            self._sorted = True


class Exposition:
    """Renders snapshots. `page` is replaced as a whole, so readers need no lock.

    Args:
        metrics: The families that the client library keeps.
        zero_first: Records the series that a page is the first to expose as 0.
        shared: Whether families of the process are on a separate page, `process_page`.
    """

    def __init__(
        self,
        metrics: Collector,
        zero_first: ZeroFirst,
        *,
        shared: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.page: Page | None = None
        self.process_page: Page | None = None
        self._shared = shared
        self._metrics = _ServedMetrics(metrics)
        self._zero_first = zero_first
        self._lock = threading.Lock()
        self._families = tuple(map(_FamilyBlocks, FAMILIES))
        self._levels = {level: [each for each in self._families if each.family.level is level] for level in Level}
        self._of_product = [each for each in self._families if not shared or each.family.level is not Level.PROCESS]
        self._snapshot = Snapshot()
        self._newly_pending: set[Series] = set()
        self._monotonic = monotonic
        self._collected = float("-inf")
        self._own = _Lines.of(b""), _Lines.of(b"")

    def render(self, snapshot: Snapshot) -> Page:
        """Render a snapshot, and serve it from now on."""
        with self._lock:
            before, self._snapshot = self._snapshot, snapshot
            everything = before.excluded != snapshot.excluded
            self._take_in(Level.JOB, before.jobs, snapshot.jobs, everything=everything)
            self._take_in(Level.SOURCE, before.sources, snapshot.sources, everything=everything)
            self._put(Level.PROCESS, snapshot.exporter)
            # Rendered twice: the second time with the numbers of series, which include the exporter's own families.
            self._put(Level.EXPORTER, snapshot.exporter)
            self._put(Level.EXPORTER, msgspec.structs.replace(snapshot.exporter, series=self.series_by_family()))
            page = self.page = self._page(snapshot.generation, self._of_product, with_own=not self._shared)
            if self._shared:
                self.process_page = self._page(snapshot.generation, self._levels[Level.PROCESS], with_own=True)
            self._zero_first.shown(page.generation, self._newly_pending)
            self._newly_pending = set()
            return page

    def _take_in(self, level: Level, before: Mapping[Key, View], now: Mapping[Key, View], *, everything: bool) -> None:
        """Replace the blocks of changed views, or of all. An unchanged view is the same object."""
        # Blocks of removed jobs are removed first, because a new job may have the same labels.
        for key in before.keys() - now.keys():
            for blocks in self._levels[level]:
                self._replace(blocks, before[key].owner, EMPTY)
        for key, view in now.items():
            # Identity suffices: views are frozen, and an unchanged one is the same object.
            if everything or before.get(key) is not view:
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

    def _page(self, generation: int, families: Sequence[_FamilyBlocks], *, with_own: bool) -> Page:
        served = [each for each in families if each.family.name not in self._snapshot.excluded]
        text, rich = ([part for each in served for part in each.parts(openmetrics=rich)] for rich in (False, True))
        plain_own, rich_own = self._collect() if with_own else (_Lines.of(b""), _Lines.of(b"# EOF\n"))
        return Page(generation, *_bodies([*text, plain_own]), *_bodies([*rich, rich_own]))

    def _collect(self) -> tuple[_Lines, _Lines]:
        now = self._monotonic()
        excluded = self._snapshot.excluded
        if now - self._collected >= COLLECT_INTERVAL or self._metrics.excluded != excluded:
            self._collected, self._metrics.excluded = now, excluded
            rich = openmetrics_exposition.generate_latest(self._metrics)  # type: ignore[no-untyped-call] # the library's
            self._own = _Lines.of(prometheus_client.generate_latest(self._metrics)), _Lines.of(rich)
        return self._own


def block_of(family: Family, prefix: str, view: View) -> Block:
    """Return the lines of an owner in a family. `prefix`: the labels that all its series have."""
    if family.samples is not None:
        return sample_block(family, prefix, family.labels_of(view), family.samples(view)) if view.gauged else EMPTY
    if not view.has_series(family.name):
        return EMPTY
    if family.kind is Kind.COUNTER:
        return counter_block(family, prefix, view.state.counts.get(family.name, {}))
    return histogram_block(family, prefix, view.state.distributions.get(family.name, {}))


def _counted_before_exposed(family: Family, view: View) -> Iterator[Series]:
    """Yield the series that have a value which was never exposed."""
    # If the family is served again, their values must not follow a 0, because old runs would look like new ones.
    if family.samples is not None or not family.zero_first or not view.has_series(family.name):
        return
    for table in (view.state.counts, view.state.distributions):
        series: Mapping[str, Count] | Mapping[str, Distribution] = table.get(family.name, {})
        yield from ((view.owner, family.name, key) for key, each in series.items() if each.counted > each.released)


def _bodies(lines: list[_Lines]) -> tuple[Body, Body]:
    body = Body.of(part.plain for part in lines)
    return body, Body.of([member(body.parts, (part.deflated for part in lines))])


class _ServedMetrics(Collector):
    """A registry without `_created` samples and without excluded families."""

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
