"""What `/metrics` answers, made when the data changes: both formats, each plain and compressed.

Each job and source has a small block of lines in each family. A change replaces blocks, and the families that hold them
are joined and compressed again; the others stay as they are.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
import prometheus_client
import prometheus_client.openmetrics.exposition as openmetrics_exposition
from prometheus_client.metrics_core import Metric

from exporter.counting.records import Counted, SourceState
from exporter.exposition.gzipped import deflated, member
from exporter.exposition.textformat import EMPTY, Block, counter_block, gauge_block, header, histogram_block, prefix_of
from exporter.metrics.families import FAMILIES, STEP_DURATION, Family, Kind, Level
from exporter.metrics.jobview import JobView
from exporter.metrics.zero_first import Owner, Series, ZeroFirst

EXPORTER: Owner = ("exporter",)


class Metrics(Protocol):
    """Where the families come from that the client library keeps: a registry."""

    def collect(self) -> Iterable[Metric]:
        """The families as they are now."""


class Body(msgspec.Struct, frozen=True):
    """Ready bytes in parts; pages share those that are equal. `length`: of all together."""

    parts: tuple[bytes, ...]
    length: int

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> "Body":
        """One made of these parts, empty ones left out."""
        kept = tuple(part for part in parts if part)
        return cls(kept, sum(map(len, kept)))

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


class Page(msgspec.Struct, frozen=True):
    """One state of all metrics. A larger `generation` is a later page."""

    generation: int
    text: Body
    text_gzip: Body
    openmetrics: Body
    openmetrics_gzip: Body


class _Lines(msgspec.Struct, frozen=True):
    """The joined lines of a family, and the same compressed."""

    plain: bytes
    deflated: bytes

    @classmethod
    def of(cls, plain: bytes) -> "_Lines":
        return cls(plain, deflated(plain))


class _FamilyBlocks:
    """The blocks of one family, and what was last made of them."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.series = 0
        self._heads = tuple(_Lines.of(header(family, openmetrics=openmetrics)) for openmetrics in (False, True))
        self._blocks: dict[Owner, Block] = {}
        self._exemplified: set[Owner] = set()
        self._made: tuple[_Lines, _Lines] | None = None

    def put(self, owner: Owner, block: Block) -> tuple[str, ...]:
        """Replaces an owner's block; gives the unreleased series of the one before."""
        old = self._blocks.get(owner, EMPTY)
        if block == old:
            return old.unreleased
        self._made = None
        self.series += block.lines - old.lines
        (self._exemplified.discard if block.rich is block.plain else self._exemplified.add)(owner)
        if block.lines:
            self._blocks[owner] = block
        else:
            del self._blocks[owner]
        return old.unreleased

    def parts(self, *, openmetrics: bool) -> tuple[_Lines, _Lines]:
        """Header and lines in a format."""
        if self._made is None:
            plain = _Lines.of(b"".join([block.plain for block in self._blocks.values()]))
            rich = plain
            if self._exemplified:
                rich = _Lines.of(b"".join([block.rich for block in self._blocks.values()]))
            self._made = plain, rich
        return self._heads[openmetrics], self._made[openmetrics]


class Exposition:
    """The current page, and what the next one will be made of.

    `update` and `publish` may be called by any thread. Readers take `page`, which is replaced whole, without waiting.
    """

    def __init__(self, metrics: Metrics, holds: ZeroFirst) -> None:
        self.page: Page | None = None
        self._metrics = _WithoutCreated(metrics)
        self._holds = holds
        self._lock = threading.Lock()
        self._families = tuple(_FamilyBlocks(family) for family in FAMILIES)
        self._levels = {level: [each for each in self._families if each.family.level is level] for level in Level}
        self._newly_shown: set[Series] = set()

    def update(
        self,
        *,
        jobs: Iterable[JobView] = (),
        removed_jobs: Iterable[int] = (),
        sources: Iterable[SourceState] = (),
        removed_sources: Iterable[str] = (),
        exporter: Counted | None = None,
    ) -> None:
        """Takes in what changed; it is seen with the next `publish`."""
        with self._lock:
            for view in jobs:
                self._put_job(view)
            for source in sources:
                self._put_counted(("source", source.name), Level.SOURCE, (source.name,), source)
            if exporter is not None:
                self._put_counted(EXPORTER, Level.EXPORTER, (), exporter)
            gone: list[Owner] = [("job", key) for key in removed_jobs]
            gone += [("source", name) for name in removed_sources]
            for owner in gone:
                self._remove(owner)

    def publish(self) -> Page:
        """Makes the next page, the registry's families read anew, and serves it."""
        with self._lock:
            generation = 0 if self.page is None else self.page.generation + 1
            text = self._parts(openmetrics=False)
            rich = self._parts(openmetrics=True)
            page = Page(generation, *_bodies(text), *_bodies(rich))
            self.page = page
            self._holds.shown(generation, self._newly_shown)
            self._newly_shown = set()
            return page

    def series_by_family(self) -> Mapping[str, int]:
        """How many lines of samples each family has. Never waits, so that a collector of the registry may ask."""
        return {each.family.name: each.series for each in self._families}

    def _put_job(self, view: JobView) -> None:
        state = view.state
        owner: Owner = ("job", state.key)
        prefix = prefix_of(Level.JOB, (state.source, state.project, state.name))
        for blocks in self._levels[Level.JOB]:
            self._put(blocks, owner, _job_block(blocks.family, prefix, view))

    def _put_counted(self, owner: Owner, level: Level, names: tuple[str, ...], counted: Counted) -> None:
        prefix = prefix_of(level, names)
        for blocks in self._levels[level]:
            series = counted.counts.get(blocks.family.name, {})
            self._put(blocks, owner, counter_block(blocks.family, prefix, series))

    def _remove(self, owner: Owner) -> None:
        for blocks in self._families:
            self._put(blocks, owner, EMPTY)

    def _put(self, blocks: _FamilyBlocks, owner: Owner, block: Block) -> None:
        before = blocks.put(owner, block)
        if before == block.unreleased:
            return
        name = blocks.family.name
        self._newly_shown.update((owner, name, labels) for labels in set(block.unreleased).difference(before))
        ended = [(owner, name, labels) for labels in set(before).difference(block.unreleased)]
        self._newly_shown.difference_update(ended)
        self._holds.forget(ended)

    def _parts(self, *, openmetrics: bool) -> list[_Lines]:
        parts = [part for blocks in self._families for part in blocks.parts(openmetrics=openmetrics)]
        if openmetrics:
            rest = openmetrics_exposition.generate_latest(self._metrics)  # type: ignore[no-untyped-call] # the library's
        else:
            rest = prometheus_client.generate_latest(self._metrics)
        return [*parts, _Lines.of(rest)]


def _job_block(family: Family, prefix: str, view: JobView) -> Block:
    if family.kind is Kind.GAUGE:
        return gauge_block(family, prefix, view) if view.gauged else EMPTY
    if not view.counted or view.withheld:
        return EMPTY
    if family.kind is Kind.COUNTER:
        return counter_block(family, prefix, view.state.counts.get(family.name, {}))
    if family.name == STEP_DURATION and not view.step_histograms:
        return EMPTY
    return histogram_block(family, prefix, view.state.distributions.get(family.name, {}))


def _bodies(lines: list[_Lines]) -> tuple[Body, Body]:
    body = Body.of(part.plain for part in lines)
    return body, Body.of([member(body.parts, (part.deflated for part in lines))])


class _WithoutCreated:
    """A registry without the `_created` samples."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Its families, without the instants at which their series began."""
        for metric in self._metrics.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
