"""The snapshot: one frozen value per commit, from which all readers take what they show."""

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
    """How the last reload of the configuration went.

    Attributes:
        successful: Whether it was applied.
        applied: When a configuration was last applied.
        error: Why the last one was refused, "" if it was not.
    """

    successful: bool = True
    applied: float | None = None
    error: str = ""


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Which of many replicas this process is.

    Attributes:
        replica: Its name.
        replicas: How many share the state.
        sources: Those that it polls.
        taken: How often it took each source.
        lost: How often it lost a source that it had not handed back.
        last_commit: When any of them last wrote the state, by the database's clock.
    """

    replica: str
    replicas: int
    sources: frozenset[str]
    taken: Mapping[str, int]
    lost: int
    last_commit: float | None


class ExporterView(msgspec.Struct, frozen=True, kw_only=True):
    """The exporter itself.

    Attributes:
        record: Its committed counters.
        build: Version of the running program.
        ownership: Which of many replicas this is; None for one process with a state of its own.
        reload: How the last reload went; None where nothing was configured yet.
        last_commit: When the state was last written.
        state_size: Bytes of the state on disk.
        state_error: Why the state cannot be written, "" if it can.
        commit_errors: Failed writes of the state since the process started.
        objective_jobs: How many jobs each objective has.
        unmatched: Indexes of objectives in the config that match no job, once all sources have been read.
        series_limit: `metrics.max_series`.
        series: Series on the page by family; counted while it is rendered.
    """

    record: Counted = msgspec.field(default_factory=Counted)
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
        """Return the key of its series."""
        return ("exporter",)

    common_labels: ClassVar[tuple[str, ...]] = ()
    gauged: ClassVar[bool] = True

    def has_series(self, _name: str) -> bool:
        """Return whether its counters of this name are served: always."""
        return True


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that is committed, and what follows from it and the configuration.

    Views that have not changed are the same objects as in the snapshot before.

    Attributes:
        generation: A later snapshot has a larger one.
        records: The records of all jobs by key, also of those that are not served.
        jobs: The jobs that are served by key, in order.
        sources: The configured sources by name, in the order of the configuration.
        exporter: The exporter itself.
    """

    generation: int = 0
    records: Mapping[int, JobState] = {}
    jobs: Mapping[int, JobView] = {}
    sources: Mapping[str, SourceView] = {}
    exporter: ExporterView = ExporterView()

    # Readiness asks this process: what a process before it polled says nothing of this one.
    def waiting(self) -> tuple[str, ...]:
        """Return the sources that have not been polled since the process started."""
        return tuple(name for name, source in self.sources.items() if not source.polled)

    def watermark(self, source: str) -> float | None:
        """Return up to when all completed runs of a source are counted; None where that is unknown."""
        view = self.sources.get(source)
        return None if view is None else view.watermark
