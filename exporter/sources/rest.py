"""Shared by sources of REST APIs: paths, status tables, requests for active runs by ID, and a base class."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from exporter.client.client import Client
from exporter.client.signin import BearerAuth
from exporter.config.secret import Secret
from exporter.config.source import SourceSettings
from exporter.counting.records import OpenRun
from exporter.errors import ForbiddenError, NotFoundError
from exporter.model import Batch, Result, Run, State, one_row_per_run
from exporter.sources.failing import FailingParts
from exporter.sources.payload import MAX_WORD_LENGTH
from exporter.sources.source import Access, Source
from exporter.sources.view import View

Row = TypeVar("Row")
StatusTable = Mapping[str, Result | State]

# Errors that mean that this credential cannot read a whole list.
REFUSALS = (ForbiddenError, NotFoundError)
NO_STATUS = "absent"
"""The unmapped status of a row without a status."""


def path(endpoint: str, **parts: str) -> str:
    """Return the path of an endpoint template, with percent-encoded parts."""
    return endpoint.format_map({name: quote(part, safe="") for name, part in parts.items()})


def status_table(vendor: StatusTable, configured: StatusTable) -> StatusTable:
    """Return the vendor's table of statuses, overridden by the config's."""
    return {**vendor, **{normalize(word): meaning for word, meaning in configured.items()}}


@lru_cache(maxsize=1024)  # a poll of many runs has few words
def normalize(word: str) -> str:
    """Return a status as a key of a table: `Timed out`, `TIMED-OUT` and `timed_out` are the same."""
    return "_".join(word.casefold().replace("-", " ").replace("_", " ").split())


class Meaning(NamedTuple):
    """The meaning of a status: a result, a state, or neither if the status is `unmapped`."""

    result: Result | None = None
    state: State | None = None
    unmapped: str = ""


def look_up(word: str, table: StatusTable, *, ended: bool = False) -> Meaning:
    """Return the meaning of a status. If it is unmapped and the run has `ended`, the result is unknown."""
    word = word.strip()[:MAX_WORD_LENGTH]
    meaning = table.get(normalize(word))
    if meaning is None:
        return Meaning(result=Result.UNKNOWN if ended else None, unmapped=word or NO_STATUS)
    return Meaning(state=meaning) if isinstance(meaning, State) else Meaning(result=meaning)


def best_row(rows: Iterable[Row], to_run: Callable[[Row], Run]) -> Row:
    """Return the best of several rows of one run (`exporter.model.one_row_per_run`)."""
    runs = {to_run(row): row for row in rows}
    return runs[one_row_per_run(runs)[0]]


def seconds_between(start: float | None, end: float | None) -> float | None:
    """Return the seconds from start to end, at least 0; None if a time is missing."""
    return None if start is None or end is None else max(0.0, end - start)


def is_gone(run: OpenRun, now: float, reach: float) -> bool:
    """Return whether an active run that the API does not have is gone for good, because it is older than `reach`."""
    return run.origin < now - reach


def root_of(settings: SourceSettings) -> str:
    """Return the root URL of a source's API."""
    return settings.base_url.rstrip("/") + settings.api_path


class OpenRunQueue:
    """Orders requests for single active runs, the least often requested first."""

    def __init__(self, failing: FailingParts) -> None:
        self._failing = failing
        self._requests: dict[str, int] = {}

    def ordered(self, run_ids: Iterable[str], view: View, last: Collection[str] = ()) -> Iterator[str]:
        """Yield the IDs of active runs to request until the poll's time is up. IDs in `last` come last."""
        requests = {run_id: self._requests.get(run_id, 0) for run_id in run_ids}
        self._requests = requests
        for run_id in sorted(requests, key=lambda run_id: (run_id in last, requests[run_id])):
            if view.out_of_time():
                return
            if not self._failing.skips(f"run {run_id}", view.now):
                requests[run_id] += 1
                yield run_id


class RestSource(Source):
    """Base class of sources: has a client and the failing parts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._failing = FailingParts()
        self._open_runs = OpenRunQueue(self._failing)

    def _follow(
        self, runs: Mapping[str, OpenRun], view: View, reach: float, read: Callable[[OpenRun, float], Batch]
    ) -> Iterator[Batch]:
        """Read active runs by ID, because no list shows them. A run that cannot be read does not delay the others."""
        for run_id in self._open_runs.ordered(runs, view):
            batch = None
            with self._failing.read(f"run {run_id}", view):
                try:
                    batch = read(runs[run_id], view.now)
                except NotFoundError:
                    batch = Batch(gone=[run_id]) if is_gone(runs[run_id], view.now, reach) else None
            if batch is not None:
                yield batch

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def bearer_access(settings: SourceSettings, token: Secret, prefix: str = "") -> Access:
    """Return access by a bearer token. `prefix` precedes all paths, after the API's own path."""
    root = root_of(settings)
    return Access(root=root + prefix, auth=BearerAuth(token.reveal), credential=f"{root} {hash(token)}")
