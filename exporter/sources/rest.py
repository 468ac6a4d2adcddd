"""What sources of REST APIs share: paths, statuses, rows of one run, pages, requests for single runs, and access."""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import structlog

from exporter.client.signin import BearerAuth
from exporter.config.secret import Secret
from exporter.config.source import SourceSettings
from exporter.counting.records import OpenRun
from exporter.errors import ForbiddenError, NotFoundError, SchemaError
from exporter.model import Result, Run, State, one_row_per_run
from exporter.sources.failing import FailingParts
from exporter.sources.payload import MAX_WORD_LENGTH
from exporter.sources.source import Access
from exporter.sources.view import View

Row = TypeVar("Row")
StatusTable = Mapping[str, Result | State]
ValueProblem = tuple[str, object]
"""What is wrong with a value in a row, and the value."""

# Errors of a list that this credential may not read.
REFUSALS = (ForbiddenError, NotFoundError)
NO_STATUS = "absent"
"""Reported as the unmapped status of a row without a status."""

# Maximum number of pages of one list. With 100 rows per page, no account has as many.
MAX_PAGES = 1000
MAX_SHAPE_LENGTH = 40


def path(endpoint: str, **parts: str) -> str:
    """Return the path of an endpoint template, with percent-encoded parts."""
    return endpoint.format_map({name: quote(part, safe="") for name, part in parts.items()})


def status_table(vendor: StatusTable, configured: StatusTable) -> StatusTable:
    """Return the vendor's table of statuses, overridden by the config's."""
    return {**vendor, **{normalize(status): meaning for status, meaning in configured.items()}}


@lru_cache(maxsize=1024)  # a poll of many runs has few statuses
def normalize(status: str) -> str:
    """Return a status as a key of a table: `Timed out`, `TIMED-OUT` and `timed_out` are the same."""
    return "_".join(status.casefold().replace("-", " ").replace("_", " ").split())


class Meaning(NamedTuple):
    """The meaning of a status: a result, a state, or neither if the status is `unmapped`."""

    result: Result | None = None
    state: State | None = None
    unmapped: str = ""


def look_up(status: str, table: StatusTable, *, ended: bool = False) -> Meaning:
    """Return the meaning of a status. If it is unmapped and the run has `ended`, the result is unknown."""
    status = status.strip()[:MAX_WORD_LENGTH]
    meaning = table.get(normalize(status))
    if meaning is None:
        return Meaning(result=Result.UNKNOWN if ended else None, unmapped=status or NO_STATUS)
    return Meaning(state=meaning) if isinstance(meaning, State) else Meaning(result=meaning)


def best_row(rows: Iterable[Row], to_run: Callable[[Row], Run]) -> Row:
    """Return the best of several rows of one run (see `exporter.model.one_row_per_run`)."""
    runs = {to_run(row): row for row in rows}
    return runs[one_row_per_run(runs)[0]]


def seconds_between(start: float | None, end: float | None) -> float | None:
    """Return the seconds from start to end, at least 0; None if a time is missing."""
    return None if start is None or end is None else max(0.0, end - start)


def is_gone(run: OpenRun, now: float, reach: float) -> bool:
    """Return whether an active run that the API does not have will not appear again: it is older than `reach`."""
    return run.origin < now - reach


class ProblemLog:
    """Logs what is wrong with values of an API: each problem once, and never the value itself."""

    def __init__(self, source: str) -> None:
        self._log = structlog.get_logger().bind(source=source)
        self._logged = set[str]()

    def add(self, problems: Iterable[ValueProblem]) -> None:
        """Log the problems that were not logged yet."""
        for problem, value in problems:
            if problem not in self._logged:
                self._logged.add(problem)
                self._log.warning(problem, looks_like=shape_of(value))


def shape_of(value: object) -> str:
    """Return a value with each digit replaced by 9 and each letter by a: the value may be customer data."""
    text = re.sub(r"\d", "9", str(value)[:MAX_SHAPE_LENGTH])
    return re.sub(r"[^\W\d_]", "a", text)


class PageGuard:
    """Checks the pages of one list, in the order in which they are read.

    Args:
        name: The list's name in errors, for example "GET /recipes".
        max_pages: Maximum number of pages before the last.
    """

    def __init__(self, name: str, max_pages: int = MAX_PAGES) -> None:
        self._name = name
        self._max_pages = max_pages
        self._pages = 0
        self._shown = set[Hashable]()
        self._cursors = set[Hashable]()

    def check(self, rows: Collection[Hashable], cursor: Hashable = None) -> None:
        """Check a page that is not the last.

        Args:
            rows: IDs of the page's rows; may be empty.
            cursor: Cursor or offset of the next page; None if pages are numbered.

        Raises:
            SchemaError: All rows were on earlier pages, an earlier page had this cursor, or there are too many pages.
        """
        self._pages += 1
        if rows and self._shown.issuperset(rows):
            raise SchemaError(f"{self._name}: the list does not end: page {self._pages} shows earlier rows again")
        if cursor is not None and cursor in self._cursors:
            raise SchemaError(f"{self._name}: the list does not end: page {self._pages} leads back to an earlier page")
        if self._pages >= self._max_pages:
            raise SchemaError(f"{self._name}: the list does not end: more than {self._pages} pages")
        self._shown.update(rows)
        self._cursors.add(cursor)


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


def root_of(settings: SourceSettings) -> str:
    """Return the root URL of a source's API."""
    return settings.base_url.rstrip("/") + settings.api_path


def bearer_access(settings: SourceSettings, token: Secret, prefix: str = "") -> Access:
    """Return access by a bearer token. `prefix` precedes all paths, after the API's own path."""
    root = root_of(settings)
    return Access(root=root + prefix, auth=BearerAuth(token.reveal), credential=f"{root} {hash(token)}")
