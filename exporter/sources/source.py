"""The interface between the exporter and a vendor.

A source reads and parses; it does not count. It gets a `View` of the state, yields batches in the order of their
commits, and raises `exporter.errors.SourceError` if it cannot continue.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import msgspec

from exporter.client.client import Client
from exporter.config.source import SourceSettings
from exporter.errors import NotFoundError
from exporter.model import Batch, Result, Run, Step
from exporter.sources.failing import FailingParts
from exporter.sources.view import View


class StepLog(msgspec.Struct, frozen=True, kw_only=True):
    """The tail of a step's output, or a run's error text: shown on request, never stored."""

    stdout: str = ""
    stderr: str = ""


class Source(ABC):
    """One configured source. If the vendor's API has no steps and no output, `fetch` and `probe` are enough."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._failing = FailingParts()

    @abstractmethod
    def fetch(self, view: View) -> Iterator[Batch]:
        """Poll once and yield batches.

        The generator continues only after a batch was committed. So a source records after the `yield` what it has
        read: if the commit fails, the next poll reads the same rows again.
        """

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:  # noqa: ARG002  # the interface
        """Return the steps of a run. Raises NotFoundError if the API does not have them.

        `patience`: seconds that each request may wait for the budget; None for as long as polls wait.
        """
        return ()

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:  # noqa: ARG002  # as above
        """Return a step's output, or the run's error text for the step "".

        The request needs only `run`, so it works before the first poll. Raises NotFoundError if the API does not have
        the output, or never has output.
        """
        raise NotFoundError("this API provides no output of runs; see the vendor's page", 404)

    @abstractmethod
    def probe(self) -> str:
        """Sign in and send a request. Return a sentence about the result."""

    def seconds_per_round(self) -> float:
        """Return the seconds that it takes to read everything once; 0 if every poll reads everything."""
        return 0.0

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an API: its root URL, sign-in and credential. Sources with one credential share a budget."""

    root: str
    auth: httpx.Auth
    credential: str


class SourceType(msgspec.Struct, frozen=True, kw_only=True):
    """A source type: a row of the table `exporter.sources.SOURCES`.

    Attributes:
        settings: The class of its settings in the config. `build`, `access` and `identity` get an object of it.
        results: Results that its runs can have. Their series start at 0 for every job.
        endpoints: Templates of the paths that it requests.
        reach: How far back the API shows runs, in seconds.
        identity: Returns the API and the account as text. A source with another identity needs another name.
        has_attempts: Whether it reports attempts. If so, jobs have counters of retries.
        reopens: Whether a completed run can become active again under its ID.
        poll_requests: Requests per idle poll. The config check warns if the budget is too small for the interval.
        auth_backoff: Minimum seconds without requests after the API refused the credential.
        rate_limit_wait: Seconds without requests after a 429 without `Retry-After`.
    """

    settings: type[SourceSettings]
    build: Callable[[Any, Client], Source]
    access: Callable[[Any], Access]
    results: tuple[Result, ...]
    endpoints: tuple[str, ...]
    reach: float
    identity: Callable[[Any], str] = lambda settings: f"{settings.type} {settings.base_url}"
    has_attempts: bool = False
    has_steps: bool = False
    reopens: bool = False
    poll_requests: int = 1
    auth_backoff: float = 0.0
    rate_limit_wait: float = 0.0
