"""One row of the table of metric families, and a function per level that returns a row."""

import enum
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from exporter.metrics.samples import Row
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import ExporterView
from exporter.snapshot.source import SourceView


class Kind(enum.StrEnum):
    """Types of metric families, as the exposition formats name them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Level(enum.StrEnum):
    """The owner of a family's series, which decides their first labels."""

    JOB = "job"
    SOURCE = "source"
    EXPORTER = "exporter"
    PROCESS = "process"


class Stability(enum.StrEnum):
    """The promise to users about a family; docs/metrics.md explains the values."""

    STABLE = "stable"
    EXPERIMENTAL = "experimental"
    DEPRECATED = "deprecated"


LEVEL_LABELS = {Level.JOB: ("source", "project", "job_name"), Level.SOURCE: ("source",)}
"""Labels of all families of a level."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One metric family.

    Attributes:
        name: Exported name, including `_total` of a counter.
        kind: Type of the family.
        help: Help text, one sentence.
        labels: Labels in addition to those of the level.
        level: Owner of the series.
        samples: Returns a gauge's samples from a view of its level; None for counters and histograms.
        stability: The promise to users.
        zero_first: Whether a new series is exposed as 0 until a scrape has read the 0.
        seeds: Values of the only label whose series exist from the start.
        buckets: Bounds of a histogram, if they are not configurable.
        more_labels: Returns the names of further labels, which depend on the job's view.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    level: Level = Level.JOB
    # The level of a row decides which view its function gets.
    samples: Callable[[Any], Iterable[Row]] | None = None
    stability: Stability = Stability.STABLE
    zero_first: bool = True
    seeds: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    more_labels: Callable[[JobView], tuple[str, ...]] | None = None

    def labels_of(self, view: Any) -> tuple[str, ...]:  # noqa: ANN401  # as above
        """Return the labels of an owner's series in addition to those of its level."""
        return self.labels if self.more_labels is None else self.labels + self.more_labels(view)

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Return all labels, those of the level first."""
        return LEVEL_LABELS.get(self.level, ()) + self.labels


def counter(name: str, text: str, *labels: str, **more: Any) -> Family:  # noqa: ANN401  # the fields of a row
    """Return the row of a counter of jobs."""
    return Family(name=name, kind=Kind.COUNTER, help=text, labels=labels, **more)


def histogram(name: str, text: str, *labels: str, **more: Any) -> Family:  # noqa: ANN401  # as above
    """Return the row of a histogram of jobs."""
    return Family(name=name, kind=Kind.HISTOGRAM, help=text, labels=labels, **more)


def gauge(name: str, text: str, samples: Callable[[JobView], Iterable[Row]], *labels: str, **more: Any) -> Family:  # noqa: ANN401  # as above
    """Return the row of a gauge of jobs."""
    return Family(name=name, kind=Kind.GAUGE, help=text, labels=labels, samples=samples, **more)


def source_counter(name: str, text: str, *labels: str, **more: Any) -> Family:  # noqa: ANN401  # as above
    """Return the row of a counter of sources."""
    return Family(name=name, kind=Kind.COUNTER, help=text, labels=labels, level=Level.SOURCE, **more)


def source_gauge(name: str, text: str, samples: Callable[[SourceView], Iterable[Row]], *labels: str) -> Family:
    """Return the row of a gauge of sources."""
    return Family(name=name, kind=Kind.GAUGE, help=text, labels=labels, level=Level.SOURCE, samples=samples)


def exporter_gauge(name: str, text: str, samples: Callable[[ExporterView], Iterable[Row]], *labels: str) -> Family:
    """Return the row of a gauge of the exporter."""
    return Family(name=name, kind=Kind.GAUGE, help=text, labels=labels, level=Level.EXPORTER, samples=samples)


# The process has no view of its own, so its rows use the exporter's view.
def process_row(
    name: str, kind: Kind, text: str, samples: Callable[[ExporterView], Iterable[Row]], *labels: str
) -> Family:
    """Return a row about this process."""
    return Family(name=name, kind=kind, help=text, labels=labels, level=Level.PROCESS, samples=samples)


def replica_row(
    name: str, kind: Kind, text: str, samples: Callable[[ExporterView], Iterable[Row]], *labels: str
) -> Family:
    """Return a row about this process as one of many replicas."""
    row = process_row(name, kind, text, samples, *labels)
    return msgspec.structs.replace(row, stability=Stability.EXPERIMENTAL)


def request_row(name: str, kind: Kind, text: str, *labels: str, buckets: tuple[float, ...] = ()) -> Family:
    """Return a row about the requests that this process sends for a source."""
    return Family(name=name, kind=kind, help=text, labels=("source", *labels), level=Level.PROCESS, buckets=buckets)
