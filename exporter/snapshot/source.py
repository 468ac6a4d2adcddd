"""The view of a source, from which its metrics and pages are rendered."""

from typing import ClassVar

import msgspec

from exporter.counting.records import OpenRun, SourceState, SourceStatus


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """A source's record, joined with its config and its active runs.

    Attributes:
        state: The committed record; never changed here.
        provider: The `type` of the source in the config.
        jobs: Number of its served jobs.
        open_runs: Its active runs, oldest first.
        polled: Whether it has been polled since this process started.
        withheld: Whether /metrics does not show the counters of its jobs yet.
        rewound: Whether the database may have lost commits. Then its own counters are not shown either.
    """

    state: SourceState
    provider: str = ""
    api_url: str = ""
    configured_interval: float | None = None
    requests_per_minute: float = 0.0
    jobs: int = 0
    open_runs: tuple[OpenRun, ...] = ()
    polled: bool = False
    withheld: bool = False
    rewound: bool = False

    @property
    def name(self) -> str:
        """Return the source's name."""
        return self.state.name

    @property
    def status(self) -> SourceStatus:
        """Return its status after the last poll."""
        return self.state.status

    @property
    def watermark(self) -> float | None:
        """Return the time up to which all completed runs are counted."""
        return self.state.watermark()

    @property
    def interval(self) -> float | None:
        """Return the current seconds between polls."""
        # Before the first poll no interval has been chosen.
        return self.configured_interval if self.status.interval is None else self.status.interval

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Return the names of the scopes that the credential may not read."""
        return tuple(sorted(name for name, scope in self.state.scopes.items() if not scope.readable))

    @property
    def known(self) -> bool:
        """Return whether any poll has set `up`. Gauges are absent before."""
        return self.status.up is not None

    @property
    def owner(self) -> tuple[str, str]:
        """Return the owner of its series, a `zero_first.Owner`."""
        return "source", self.state.name

    @property
    def common_labels(self) -> tuple[str, ...]:
        """Return the values of the labels that all its series have."""
        return (self.state.name,)

    gauged: ClassVar[bool] = True  # a source always has gauges

    def has_series(self, _name: str) -> bool:
        """Return whether to show its counters and histograms. They are hidden while commits may be missing."""
        return not self.rewound
