"""What a source is: the one seam between the exporter and a vendor.

A source reads and parses; it keeps no counts and decides nothing about them. It is given a `View` of the state,
yields `Batch`s in the order in which they are to be committed, and raises `exporter.errors.SourceError` when it
cannot go on.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import httpx
import msgspec

from exporter.client.client import Client
from exporter.config.source import SourceSettings
from exporter.counting.records import OpenRun
from exporter.model import Batch, Result, Run, Step


class View(Protocol):
    """What a source may ask of the state while it reads. Answers always show what is committed by then."""

    @property
    def now(self) -> float:
        """The current instant, corrected by the API's own clock where its answers tell it."""

    @property
    def first_poll(self) -> float:
        """The source's baseline instant: the start of its first poll."""

    @property
    def sweep_due(self) -> bool:
        """Whether this poll shall also read the sweep window."""

    @property
    def notes(self) -> Mapping[str, str]:
        """The source's own bookmarks, as committed with its readings."""

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that the state holds: those of which a reading was committed, until they exist no more."""

    def watermark(self, scope: str = "") -> float | None:
        """All endings of the scope up to here are counted; None before its first reading."""

    def baseline(self, scope: str = "") -> float:
        """The baseline instant of a scope; of one not known yet, now."""

    def open_runs(self, scope: str | None = None) -> Sequence[OpenRun]:
        """Open runs of a scope, or of all, oldest first."""

    def started_between(self, start: float, end: float) -> frozenset[str]:
        """Ids of known runs that started in this stretch."""

    def known(self, run_ids: Collection[str]) -> frozenset[str]:
        """Those of these ids that the state holds, open or ended."""

    def ended(self, run_ids: Collection[str]) -> frozenset[str]:
        """Those of these ids that the state holds as ended."""

    def step_counts(self) -> Mapping[str, int]:
        """How many steps each job's latest run with known steps had, by job id."""

    def wanted(self, job_name: str) -> bool:
        """Whether the configuration's `jobs` includes this name: what is not wanted need not be asked for."""

    def out_of_time(self) -> bool:
        """Whether this poll has used up its interval; lesser work then waits for the next."""


class StepLog(msgspec.Struct, frozen=True, kw_only=True):
    """The tail of a step's output, or a run's error text, for a person who asked for it; never stored."""

    stdout: str = ""
    stderr: str = ""


class Source(Protocol):
    """One configured source."""

    def fetch(self, view: View) -> Iterator[Batch]:
        """One poll: yields each reading when the one before is committed."""

    def committed(self, batch: Batch) -> None:
        """Called once a reading is in the state; only now may the source treat its rows as known."""

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """The steps of a run. Raises NotFoundError if the API does not have them.

        `patience`: seconds that each request may wait for the budget; by default as long as a poll's.
        """

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """Output of a step, or with "" the error text of the run itself, for a person who asked for it.

        All that is needed to ask is in `run`: the process may have been started a moment ago. Raises NotFoundError if
        the API does not have it, or has nothing of the kind.
        """

    def probe(self) -> str:
        """Signs in and asks once; returns a sentence that says what was seen."""

    def round_seconds(self) -> float:
        """Seconds in which everything is read once at present; 0 where every poll reads everything."""

    def close(self) -> None:
        """Ends its connections."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an API: its root URL, the way to sign in, and a key under which budgets are shared."""

    root: str
    auth: httpx.Auth
    credential: str


class SourceType(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of source: one row of the table `exporter.sources.SOURCES`.

    Attributes:
        settings: The model of its part of the config.
        build: Makes the source from its settings and a client.
        access: Gives from the settings the API's root, the sign-in, and what identifies the credential.
        identity: What must not change under a source's name, shown to a person (the API and the account).
        results: The results that it can produce; seeded at 0 for every job.
        attempts: Whether it tells of attempts; then the retry counters are seeded.
        has_steps: Whether runs have steps.
        reopens: Whether an ended run's id can come back to life.
        endpoints: Templates of the paths that it asks.
        reach: How far back the API shows runs, in seconds.
        poll_requests: Requests of one quiet poll, to warn where the budget cannot keep the interval.
        auth_backoff: Seconds to leave an API alone, at the least, that has refused the credential.
    """

    settings: type[SourceSettings]
    build: Callable[[Any, Client], Source]
    access: Callable[[Any], Access]
    identity: Callable[[Any], str]
    results: tuple[Result, ...]
    attempts: bool
    has_steps: bool
    reopens: bool
    endpoints: tuple[str, ...]
    reach: float
    poll_requests: int = 1
    auth_backoff: float = 0.0
