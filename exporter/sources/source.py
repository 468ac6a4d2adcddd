"""The interface between the exporter and a vendor.

A source reads and parses; it does not count. It gets a `View` of the state, yields `Batch`es in the order in which
they are committed, and raises `exporter.errors.SourceError` when it cannot continue.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import httpx
import msgspec

from exporter.client.client import Client
from exporter.config.source import SourceSettings
from exporter.counting.records import OpenRun
from exporter.errors import NotFoundError
from exporter.model import Batch, Result, Run, Step


class View(Protocol):
    """The committed state, as a source may read it during a poll."""

    @property
    def now(self) -> float:
        """Return the current time by the API's clock, which its responses show."""

    @property
    def first_poll(self) -> float:
        """Return the source's baseline: the start of its first poll."""

    @property
    def sweep_due(self) -> bool:
        """Return whether this poll also reads the sweep window."""

    @property
    def checkpoints(self) -> Mapping[str, str]:
        """Return the source's checkpoints by name, as committed with its batches."""

    @property
    def scopes(self) -> frozenset[str]:
        """Return the names of the scopes in the state: they have a committed batch and still exist."""

    def watermark(self, scope: str = "") -> float | None:
        """Return the time up to which all completed runs of a scope are counted; None before its first batch."""

    def baseline(self, scope: str = "") -> float:
        """Return a scope's baseline; the current time if the scope is new."""

    def open_runs(self, scope: str | None = None) -> Sequence[OpenRun]:
        """Return the active runs of a scope, or of all, oldest first."""

    def started_between(self, start: float, end: float) -> frozenset[str]:
        """Return the IDs of known runs that started between two times."""

    def known(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return the IDs that are in the state, as active or completed runs."""

    def ended(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return the IDs that are in the state as completed runs. An expired run may still complete."""

    def step_counts(self) -> Mapping[str, int]:
        """Return the number of steps of each job's latest run with known steps, by job ID."""

    def wanted(self, job_name: str) -> bool:
        """Return whether the config includes a job of this name. Excluded jobs need no requests."""

    def out_of_time(self) -> bool:
        """Return whether this poll has used up its interval. Less important work then waits for the next poll."""


class StepLog(msgspec.Struct, frozen=True, kw_only=True):
    """The tail of a step's output, or a run's error text. Pages show it on request; it is never stored."""

    stdout: str = ""
    stderr: str = ""


class Source(Protocol):
    """One configured source. A vendor whose API has no steps and no output only needs `fetch` and `probe`."""

    @abstractmethod
    def fetch(self, view: View) -> Iterator[Batch]:
        """Poll once and yield batches. Each batch is committed before the next one is requested."""

    def committed(self, batch: Batch) -> None:
        """Record that a batch is in the state. Before this call the source must not treat the batch's rows as known."""

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:  # noqa: ARG002  # the interface
        """Return the steps of a run. Raises NotFoundError if the API does not have them.

        `patience`: seconds that each request may wait for the budget; None for the time that polls wait.
        """
        return ()

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:  # noqa: ARG002  # as above
        """Return a step's output; for the step "" the error text of the run.

        The request needs nothing but `run`, because the process may just have started. Raises NotFoundError if the API
        does not have the output, or provides none.
        """
        raise NotFoundError("this API provides no output of runs; see the vendor's page", 404)

    @abstractmethod
    def probe(self) -> str:
        """Sign in and send a request. Return a sentence about the result."""

    def round_seconds(self) -> float:
        """Return the seconds that it currently takes to read everything once; 0 if every poll reads everything."""
        return 0.0

    def close(self) -> None:
        """Close all connections."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an API: its root URL, sign-in and credential. Sources with one credential share a budget."""

    root: str
    auth: httpx.Auth
    credential: str


class SourceType(msgspec.Struct, frozen=True, kw_only=True):
    """A source type: a row of the table `exporter.sources.SOURCES`.

    Attributes:
        settings: The class of its settings in the config.
        build: Builds the source from its settings and a client.
        access: Returns how to reach the API.
        results: Results that it can produce. Their series start at 0 for every job.
        endpoints: Templates of the paths that it requests.
        reach: How far back the API shows runs, in seconds.
        identity: Returns the API and the account as text. They must not change under a source's name.
        attempts: Whether it reports attempts. Jobs then have counters of retries.
        has_steps: Whether runs have steps.
        reopens: Whether a completed run can become active again under its ID.
        poll_requests: Requests per idle poll. The config check warns if the budget is too small for the interval.
        auth_backoff: Minimum seconds without requests after the API refused the credential.
    """

    settings: type[SourceSettings]
    build: Callable[[Any, Client], Source]
    access: Callable[[Any], Access]
    results: tuple[Result, ...]
    endpoints: tuple[str, ...]
    reach: float
    identity: Callable[[Any], str] = lambda settings: f"{settings.type} {settings.base_url}"
    attempts: bool = False
    has_steps: bool = False
    reopens: bool = False
    poll_requests: int = 1
    auth_backoff: float = 0.0
