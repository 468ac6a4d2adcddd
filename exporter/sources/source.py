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
    """The committed state, as a source sees it while it reads."""

    @property
    def now(self) -> float:
        """The current time by the API's clock, as far as its answers show it."""

    @property
    def first_poll(self) -> float:
        """The source's baseline: the start of its first poll."""

    @property
    def sweep_due(self) -> bool:
        """Whether this poll also reads the sweep window."""

    @property
    def checkpoints(self) -> Mapping[str, str]:
        """The source's checkpoints, as committed with its batches."""

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes in the state: those with a committed batch, until they no longer exist."""

    def watermark(self, scope: str = "") -> float | None:
        """Return the time up to which all completed runs of a scope are counted; None before its first batch."""

    def baseline(self, scope: str = "") -> float:
        """Return a scope's baseline; the current time if the scope is new."""

    def open_runs(self, scope: str | None = None) -> Sequence[OpenRun]:
        """Return the active runs of a scope, or of all, oldest first."""

    def started_between(self, start: float, end: float) -> frozenset[str]:
        """Return the IDs of known runs that started between two times."""

    def known(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return those of these IDs that are in the state, open or completed."""

    def ended(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return those of these IDs that are in the state as completed."""

    def step_counts(self) -> Mapping[str, int]:
        """Return the number of steps of each job's latest run with known steps, by job ID."""

    def wanted(self, job_name: str) -> bool:
        """Return whether the config's `jobs` includes this name: other jobs need no requests."""

    def out_of_time(self) -> bool:
        """Return whether this poll has used up its interval; less important work then waits for the next."""


class StepLog(msgspec.Struct, frozen=True, kw_only=True):
    """The tail of a step's output, or a run's error text, for a person who opened it; never stored."""

    stdout: str = ""
    stderr: str = ""


class Source(Protocol):
    """One configured source. A vendor without steps and output that each poll reads whole has two methods to write."""

    @abstractmethod
    def fetch(self, view: View) -> Iterator[Batch]:
        """Poll once; yield each batch after the one before is committed."""

    def committed(self, batch: Batch) -> None:
        """Note that a batch is in the state; only now may the source treat its rows as known."""

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:  # noqa: ARG002  # the interface
        """Return the steps of a run. Raises NotFoundError if the API does not have them.

        `patience`: seconds that each request may wait for the budget; by default as long as a poll's.
        """
        return ()

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:  # noqa: ARG002  # as above
        """Return a step's output, or with "" the error text of the run itself, for a person who opened it.

        `run` has all that the request needs: the process may just have started. Raises NotFoundError if the API does
        not have it, or provides no output.
        """
        raise NotFoundError("this API provides no output of runs; see the vendor's page", 404)

    @abstractmethod
    def probe(self) -> str:
        """Sign in and send a request; return a sentence about the result."""

    def round_seconds(self) -> float:
        """Return the seconds in which everything is read once at present; 0 if every poll reads everything."""
        return 0.0

    def close(self) -> None:
        """Close all connections."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an API: its root URL, the sign-in, and a key by which budgets are shared."""

    root: str
    auth: httpx.Auth
    credential: str


class SourceType(msgspec.Struct, frozen=True, kw_only=True):
    """A source type: a row of the table `exporter.sources.SOURCES`.

    Attributes:
        settings: The model of its part of the config.
        build: Builds the source from its settings and a client.
        access: Returns the API's root, the sign-in, and the identity of the credential.
        results: The results that it can produce; initialized at 0 for every job.
        endpoints: Templates of the paths that it requests.
        reach: How far back the API shows runs, in seconds.
        identity: Returns what must not change under a source's name, in words (the API and the account).
        attempts: Whether it reports attempts; then the retry counters are initialized.
        has_steps: Whether runs have steps.
        reopens: Whether a completed run's ID can become open again.
        poll_requests: Requests per idle poll, to warn if the budget cannot keep the interval.
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
