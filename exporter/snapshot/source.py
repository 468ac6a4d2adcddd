"""What is known of a source: its committed record together with its configuration and its active runs."""

from typing import ClassVar

import msgspec

from exporter.counting.records import OpenRun, SourceState, SourceStatus


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """A source's record together with what the configuration and the active runs add to it.

    Attributes:
        state: Its committed record; never changed here.
        provider: The word for its vendor in the configuration.
        api_url: Where its API is.
        configured_interval: Seconds between polls as configured.
        requests_per_minute: Requests that may be sent per minute, as configured.
        jobs: How many of its jobs are served.
        open_runs: Its active runs, oldest first.
        polled: Whether it has been polled since this process started.
        withheld: Whether its jobs' counters are not served yet.
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

    @property
    def name(self) -> str:
        """Its name: the label `source`."""
        return self.state.name

    @property
    def status(self) -> SourceStatus:
        """How it stands after its last poll."""
        return self.state.status

    @property
    def watermark(self) -> float | None:
        """Up to when all completed runs are counted."""
        return self.state.watermark()

    @property
    def interval(self) -> float | None:
        """Seconds between polls that are in force."""
        # Before the first poll no interval has been chosen.
        return self.configured_interval if self.status.interval is None else self.status.interval

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of the scopes that the credential may not read."""
        return tuple(sorted(name for name, scope in self.state.scopes.items() if not scope.readable))

    @property
    def known(self) -> bool:
        """Whether a poll has found out how it stands."""
        return self.status.up is not None

    @property
    def owner(self) -> tuple[str, str]:
        """What its series belong to."""
        return "source", self.state.name

    @property
    def common_labels(self) -> tuple[str, ...]:
        """The values of the labels that all its series have."""
        return (self.state.name,)

    @property
    def record(self) -> SourceState:
        """The record that holds its counters and histograms."""
        return self.state

    gauged: ClassVar[bool] = True
    """Sources always have gauges."""

    def has_series(self, _name: str) -> bool:
        """Return whether its counters or histograms of this name are served: always."""
        return True
