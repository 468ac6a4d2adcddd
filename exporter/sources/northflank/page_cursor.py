"""The position in the pages of one job's runs, and the runs read so far."""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import msgspec

from exporter.errors import SchemaError
from exporter.model import Run, one_row_per_run
from exporter.sources.northflank.api import NorthflankPage
from exporter.sources.rest import PageGuard

MAX_PAGES = 100
"""Maximum number of pages that are requested of one list."""

# A list counts as newest first if at most this fraction of neighbors on its first page are in the wrong order.
MAX_MISORDERED = 0.25

KnownIds = Callable[[Collection[str]], Collection[str]]
"""Returns which of these runs are in the state."""


class PageCursor(msgspec.Struct, kw_only=True):
    """Position in the pages of a job's runs. Reading usually ends at the first page with known runs.

    Attributes:
        began: Time of the first request.
        floor: Reading ends at a run that started before this time.
        baseline: Reading ends at a page whose runs all ended before this time.
        deep: Whether to continue after a page with known runs, down to `floor`.
        first_page: Hash of the first page. If it is the same at the next read, nothing has changed.
        unread_before: Runs that started before this time may be new and unread; None if all new runs were read.
        skipped: Whether older pages are unread, because all runs of a page ended before the baseline.
    """

    began: float
    floor: float
    baseline: float = -math.inf
    deep: bool = False
    runs: dict[str, Run] = {}
    invalid: int = 0
    pages: int = 0
    cursor: str = ""
    first_page: bytes = b""
    newest_first: bool = True
    unread_before: float | None = None
    skipped: bool = False
    guard: PageGuard = msgspec.field(default_factory=lambda: PageGuard("the runs of a job", MAX_PAGES + 1))

    @property
    def complete(self) -> bool:
        """Return whether the job counts as read. In a list that is newest first, unread runs count as unobserved."""
        return self.newest_first or self.unread_before is None

    def add(self, page: NorthflankPage, runs: Sequence[Run], known: KnownIds) -> bool:
        """Add a page. Return whether to request another page. Raises SchemaError if the list does not end."""
        fresh = {run.run_id for run in runs} - self.runs.keys()
        shown = [self.runs[run.run_id] for run in runs if run.run_id in self.runs]
        self.runs.update((run.run_id, run) for run in one_row_per_run([*shown, *runs]))
        self.invalid += len(page.rows) - len(runs)
        self.pages, self.cursor = self.pages + 1, page.cursor
        if self.pages == 1:
            self.newest_first = is_newest_first(runs)
        if not page.more:
            return False
        if not fresh:
            raise SchemaError("the runs of a job: the list does not end: a page without a new run is not the last")
        self.guard.check(fresh, page.cursor or None)
        if self.newest_first and all(run.end is not None and run.end <= self.baseline for run in runs):
            # Active runs on older pages are read later, by `JobReader._read_older_runs`.
            self.skipped = True
        elif self.pages < MAX_PAGES and not (self.newest_first and self._meets_known(runs, known)):
            return True
        if not known(fresh):
            starts = (run.start for run in self.runs.values() if run.start is not None)
            self.unread_before = min(starts, default=self.began)
        return False

    def _meets_known(self, runs: Sequence[Run], known: KnownIds) -> bool:
        if any(run.start is not None and run.start < self.floor for run in runs):
            return True
        return not self.deep and bool(known([run.run_id for run in runs]))


def is_newest_first(runs: Sequence[Run]) -> bool:
    """Return whether the runs of a page are newest first, except for a few neighbors."""
    starts = [run.start for run in runs if run.start is not None]
    pairs = [(one, other) for one, other in pairwise(starts) if one != other]
    return sum(one < other for one, other in pairs) <= MAX_MISORDERED * len(pairs)
