"""A row of the table of metric families, and functions that return rows."""

import enum
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from exporter.metrics.samples import Row, View, single
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
    """How stable a family is for its users; docs/metrics.md explains the values."""

    STABLE = "stable"
    EXPERIMENTAL = "experimental"
    DEPRECATED = "deprecated"


LEVEL_LABELS = {Level.JOB: ("source", "project", "job_name"), Level.SOURCE: ("source",)}
"""Labels of all families of a level."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One metric family.

    Attributes:
        name: Exported name, including `_total` of a counter.
        labels: Names of the labels that follow the labels of the level.
        level: Owner of the series.
        samples: Returns a gauge's samples from a view of its level; None for counters and histograms.
        zero_first: Whether a new series is exposed as 0 until a scrape has read the 0.
        seeds: Label values of the series that exist from the start; "" for a family without labels.
        buckets: Bounds of a histogram, if they are not configurable.
        more_labels: Returns the names of further labels, which depend on the job's view.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    level: Level = Level.JOB
    # Any, because the level decides which view the function gets.
    samples: Callable[[Any], Iterable[Row]] | None = None
    stability: Stability = Stability.STABLE
    zero_first: bool = True
    seeds: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    more_labels: Callable[[JobView], tuple[str, ...]] | None = None

    def labels_of(self, view: Any) -> tuple[str, ...]:  # noqa: ANN401  # as above
        """Return the names of the labels that follow the labels of the level, for a view."""
        return self.labels if self.more_labels is None else self.labels + self.more_labels(view)

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Return the names of all labels."""
        return LEVEL_LABELS.get(self.level, ()) + self.labels


def counter(name: str, text: str, *labels: str, **more: Any) -> Family:  # noqa: ANN401  # the fields of a row
    """Return the row of a counter."""
    return Family(name=name, kind=Kind.COUNTER, help=text, labels=labels, **more)


def histogram(name: str, text: str, *labels: str, **more: Any) -> Family:  # noqa: ANN401  # as above
    """Return the row of a histogram."""
    return Family(name=name, kind=Kind.HISTOGRAM, help=text, labels=labels, **more)


def labeled_gauge(
    name: str,
    text: str,
    samples: Callable[[View], Iterable[Row]],
    *labels: str,
    **more: Any,  # noqa: ANN401  # as above
) -> Family:
    """Return the row of a gauge with labels of its own. `samples`: returns its samples from a view of its level."""
    return Family(name=name, kind=Kind.GAUGE, help=text, labels=labels, samples=samples, **more)


def gauge(name: str, text: str, value: Callable[[JobView], float | None], **more: Any) -> Family:  # noqa: ANN401  # as above
    """Return the row of a gauge of jobs. The gauge is absent while its value is None."""
    return Family(name=name, kind=Kind.GAUGE, help=text, samples=single(value), **more)


def source_counter(name: str, text: str, *labels: str, **more: Any) -> Family:  # noqa: ANN401  # as above
    """Return the row of a counter of sources."""
    return counter(name, text, *labels, level=Level.SOURCE, **more)


def source_gauge(name: str, text: str, value: Callable[[SourceView], float | None]) -> Family:
    """Return the row of a gauge of sources."""
    return Family(name=name, kind=Kind.GAUGE, help=text, level=Level.SOURCE, samples=single(value))


def exporter_gauge(name: str, text: str, value: Callable[[ExporterView], float | None]) -> Family:
    """Return the row of a gauge of the exporter."""
    return Family(name=name, kind=Kind.GAUGE, help=text, level=Level.EXPORTER, samples=single(value))


def process_row(
    name: str,
    kind: Kind,
    text: str,
    value: Callable[[ExporterView], float | None],
    stability: Stability = Stability.STABLE,
) -> Family:
    """Return the row of a counter or gauge of this process, which has no view but the exporter's."""
    return Family(name=name, kind=kind, help=text, level=Level.PROCESS, samples=single(value), stability=stability)


def request_row(name: str, kind: Kind, text: str, *labels: str, buckets: tuple[float, ...] = ()) -> Family:
    """Return the row of a counter or histogram of the requests that this process sends for a source."""
    return Family(name=name, kind=kind, help=text, labels=("source", *labels), level=Level.PROCESS, buckets=buckets)
