"""The pages of one job's runs, as far as they have been read."""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import msgspec

from exporter.errors import SchemaError
from exporter.model import Run, one_row_per_run
from exporter.sources.paging import PageGuard

MAX_PAGES = 100
"""Pages of one list that are requested at most."""

# The share of neighbors on a page that may be in the wrong order before the list counts as not newest first.
MAX_MISORDERED = 0.25

KnownIds = Callable[[Collection[str]], Collection[str]]


class NorthflankPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page: its rows, not yet decoded, and how to request the next if there is one."""

    rows: Sequence[msgspec.Raw]
    more: bool
    cursor: str


class PageCursor(msgspec.Struct, kw_only=True):
    """Reads the pages of a job's runs, usually newest first, up to one with known runs.

    Attributes:
        began: When the first page was requested.
        floor: Runs that started earlier are not looked for.
        baseline: A page of runs that all ended by then is the last.
        deep: Whether to read on through known runs down to the floor.
        first: The hash of the first page, which shows whether anything changed.
        reached: The earliest start seen, if pages remain beyond the last one read.
        skipped: Whether it ended at a page of runs that all ended before the baseline, although there were more.
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
        """Whether nothing of interest lies beyond it, once it has ended."""
        return self.newest_first or self.reached is None

    def add(self, page: NorthflankPage, runs: Sequence[Run], known: KnownIds) -> bool:
        """Add a page; return whether to request another. Raises SchemaError if the list does not end."""
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
        # Active runs behind such a page are looked for later.
        return all(run.end is not None and run.end <= self.baseline for run in runs)

    def _meets_known(self, runs: Sequence[Run], known: KnownIds) -> bool:
        if any(run.start is not None and run.start < self.floor for run in runs):
            return True
        return not self.deep and bool(known([run.run_id for run in runs]))


def cursor_to_floor(now: float, floor: float, behind: PageCursor | None = None) -> PageCursor:
    """Return a cursor that reads down to the floor, whatever its pages show; it continues where `behind` ended."""
    if behind is not None:
        return msgspec.structs.replace(behind, baseline=-math.inf, deep=True, skipped=False, reached=None)
    return PageCursor(began=now, floor=floor, baseline=-math.inf, deep=True)


def is_newest_first(runs: Sequence[Run]) -> bool:
    """Return whether a page is newest first, apart from a few neighbors; a single run is."""
    starts = [run.start for run in runs if run.start is not None]
    pairs = [(one, other) for one, other in pairwise(starts) if one != other]
    return sum(one < other for one, other in pairs) <= MAX_MISORDERED * len(pairs)
