"""The position in the pages of one job's runs, and the runs read so far."""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import msgspec

from exporter.errors import SchemaError
from exporter.model import Run, one_row_per_run
from exporter.sources.paging import PageGuard

MAX_PAGES = 100
"""Maximum number of pages that are requested of one list."""

# Maximum fraction of neighbors on a page that are in the wrong order, if the list counts as newest first.
MAX_MISORDERED = 0.25

KnownIds = Callable[[Collection[str]], Collection[str]]


class NorthflankPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page: its undecoded rows, whether there are more pages, and the cursor of the next page."""

    rows: Sequence[msgspec.Raw]
    more: bool
    cursor: str


class PageCursor(msgspec.Struct, kw_only=True):
    """Reads the pages of a job's runs, usually newest first, up to one with known runs.

    Attributes:
        began: When the first page was requested.
        floor: Reading ends at a run that started before this time.
        baseline: Reading ends at a page whose runs all ended before this time.
        deep: Whether to continue after a page with known runs, down to `floor`.
        first: Hash of the first page, which shows whether anything changed.
        reached: Earliest start of the runs read, if there may be unread new runs on further pages.
        skipped: Whether there are unread pages after a page whose runs all ended before the baseline.
        guard: Refuses a list that never ends.
    """

    began: float
    floor: float
    baseline: float
    deep: bool = False
    runs: dict[str, Run] = {}
    invalid: int = 0
    pages: int = 0
    cursor: str = ""
    first: bytes = b""
    newest_first: bool = True
    reached: float | None = None
    skipped: bool = False
    guard: PageGuard = msgspec.field(default_factory=lambda: PageGuard("the runs of a job", MAX_PAGES + 1))

    @property
    def complete(self) -> bool:
        """Return whether all new runs were read, once reading has ended."""
        return self.newest_first or self.reached is None

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
        if self.newest_first and self._all_ended(runs):
            self.skipped = True
        elif self.pages < MAX_PAGES and not (self.newest_first and self._meets_known(runs, known)):
            return True
        if not known(fresh):
            self.reached = min((run.start for run in self.runs.values() if run.start is not None), default=self.began)
        return False

    def _all_ended(self, runs: Sequence[Run]) -> bool:
        # Active runs on later pages are read by `JobReader._read_older_runs`.
        return all(run.end is not None and run.end <= self.baseline for run in runs)

    def _meets_known(self, runs: Sequence[Run], known: KnownIds) -> bool:
        if any(run.start is not None and run.start < self.floor for run in runs):
            return True
        return not self.deep and bool(known([run.run_id for run in runs]))


def cursor_to_floor(now: float, floor: float, behind: PageCursor | None = None) -> PageCursor:
    """Return a cursor that reads all pages down to the floor. It continues where `behind` ended."""
    if behind is not None:
        return msgspec.structs.replace(behind, baseline=-math.inf, deep=True, skipped=False, reached=None)
    return PageCursor(began=now, floor=floor, baseline=-math.inf, deep=True)


def is_newest_first(runs: Sequence[Run]) -> bool:
    """Return whether the runs of a page are newest first, apart from a few neighbors."""
    starts = [run.start for run in runs if run.start is not None]
    pairs = [(one, other) for one, other in pairwise(starts) if one != other]
    return sum(one < other for one, other in pairs) <= MAX_MISORDERED * len(pairs)
