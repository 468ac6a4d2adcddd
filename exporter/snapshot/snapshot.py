"""The snapshot: a frozen value, from which metrics, pages and reports are rendered."""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from exporter.counting.records import Counted, JobState
from exporter.snapshot.job import JobView
from exporter.snapshot.source import SourceView


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """Version of the running program."""

    version: str = ""
    revision: str = ""
    python_version: str = ""


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """Result of the last reload of the config.

    Attributes:
        error: Why the last reload was refused; "" if it was applied.
    """

    successful: bool = True
    applied: float | None = None
    error: str = ""


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """This replica: its sources, and the state that the replicas share.

    Attributes:
        taken: How often this replica took over each source.
        lost: How often this replica lost a source that it had not handed back.
        last_commit: When any replica last wrote the state, by the database's clock.
        state_size: Bytes of the state, as measured by one replica.
        rewound: Sources whose commits the database may have lost, also such as the next reload may add to the config.
        steps_rewound: Rewound sources, and sources whose runs, but not their steps, were read again.
        all_rewound: Whether all configured sources are rewound. Then the exporter's own counters may also be too low.
    """

    replica: str
    replicas: int
    sources: frozenset[str]
    taken: Mapping[str, int]
    lost: int
    last_commit: float | None
    state_size: int = 0
    rewound: frozenset[str] = frozenset()
    steps_rewound: frozenset[str] = frozenset()
    all_rewound: bool = False


class ExporterView(msgspec.Struct, frozen=True, kw_only=True):
    """The exporter itself.

    Attributes:
        ownership: This process as one of many replicas; None if the state is not shared.
        state_size: Size of the state on disk, in bytes.
        state_error: Why the state cannot be written; "" if it can.
        commit_errors: Failed writes of the state since the process started.
        objective_jobs: Number of jobs per objective, in the order of the config.
        unmatched: Indexes of the objectives that matched no job when all sources had last been read.
        series: Number of series on `/metrics` by family, counted while it is rendered.
    """

    state: Counted = msgspec.field(default_factory=Counted)
    build: Build | None = None
    ownership: Ownership | None = None
    reload: Reload | None = None
    last_commit: float | None = None
    state_size: int = 0
    state_error: str = ""
    commit_errors: int = 0
    objective_jobs: tuple[int, ...] = ()
    unmatched: tuple[int, ...] = ()
    series_limit: int | None = None
    series: Mapping[str, int] = {}

    @property
    def owner(self) -> tuple[str]:
        """Return the owner of its series: see `zero_first.Owner`."""
        return ("exporter",)

    common_labels: ClassVar[tuple[str, ...]] = ()
    gauged: ClassVar[bool] = True

    def has_series(self, _name: str) -> bool:
        """Return whether its counters are served: not while all sources are rewound."""
        return self.ownership is None or not self.ownership.all_rewound


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All committed records, joined with the config.

    Unchanged views are the same objects as in the previous snapshot.

    Attributes:
        generation: A later snapshot has a larger number.
        records: The records of all jobs by key, including jobs that are not served.
        jobs: Views of the served jobs by key, in order.
        sources: Views of the configured sources by name, in the order of the config.
    """

    generation: int = 0
    records: Mapping[int, JobState] = {}
    jobs: Mapping[int, JobView] = {}
    sources: Mapping[str, SourceView] = {}
    exporter: ExporterView = ExporterView()
    excluded: frozenset[str] = frozenset()

    def waiting(self) -> tuple[str, ...]:
        """Return the sources for whose first poll the readiness of this process still waits."""
        return tuple(name for name, source in self.sources.items() if not source.polled)

    def watermark(self, source: str) -> float | None:
        """Return the time up to which all completed runs of a source are counted; None if unknown."""
        view = self.sources.get(source)
        return None if view is None else view.watermark
