"""The search for what is new of one recipe's jobs: pages, the list of open jobs, and single jobs by id."""

from collections.abc import Mapping, Sequence

import msgspec

from exporter.client.client import Client
from exporter.counting.records import OpenRun
from exporter.errors import AuthError, NotFoundError, RateLimitedError, SourceError
from exporter.model import Run, Step
from exporter.sources.failing import FailingParts
from exporter.sources.oddities import FUTURE_MARGIN, Oddities
from exporter.sources.paging import PageGuard
from exporter.sources.rest import StatusTable, path
from exporter.sources.source import View
from exporter.sources.workato.api import (
    CUSTOMER,
    JOB,
    JOBS,
    JobRow,
    better,
    oddities,
    parse_job,
    parse_jobs,
    parse_total,
    split_job_id,
    to_run,
)
from exporter.sources.workato.marks import Page, SearchTarget, is_last

MOST_PAGES = 40
"""Pages of one recipe's jobs a poll; the next poll reads on."""


class Api:
    """The requests about jobs, for customers and for a workspace alike.

    Args:
        client: The API.
        table: What status words mean.
        odd: Where values are logged that cannot be used.
        failing: What cannot be read at present.
    """

    def __init__(self, client: Client, table: StatusTable, odd: Oddities, failing: FailingParts) -> None:
        self._client = client
        self.statuses = table
        self.oddities = odd
        self.failing = failing

    def get(
        self,
        customer_id: str,
        endpoint: str,
        params: Mapping[str, str | int] | None = None,
        *,
        patience: float | None = None,
        **parts: str,
    ) -> bytes:
        """The body of an answer; `customer_id` is "" in a workspace of one's own."""
        template = CUSTOMER + endpoint if customer_id else endpoint
        address = path(template, customer=customer_id, **parts)
        return self._client.get(address, endpoint=template, params=params, patience=patience).body

    def page(self, job_id: str, params: Mapping[str, str]) -> bytes:
        """A page of a recipe's jobs."""
        customer_id, recipe_id = split_job_id(job_id)
        return self.get(customer_id, JOBS, params, recipe=recipe_id)

    def detail(self, job_id: str, run_id: str, *, patience: float | None = None) -> bytes:
        """A single job. Raises NotFoundError if there is none of this id."""
        customer_id, recipe_id = split_job_id(job_id)
        return self.get(customer_id, JOB, patience=patience, recipe=recipe_id, job=run_id)

    def one(self, job_id: str, run_id: str) -> tuple[JobRow, list[Step]]:
        """A single job with its steps."""
        return parse_job(self.detail(job_id, run_id), run_id)

    def has_ended(self, row: JobRow) -> bool:
        """Whether this row is of a job that has ended."""
        return to_run(row, "", self.statuses).result is not None


class Search:
    """One poll's search through the jobs of one recipe.

    Args:
        api: Where to ask.
        view: What is known.
        job_id: The recipe.
        baseline: The time up to which endings of its scope do not count.
        tracked: Its open runs as the state holds them, oldest first.

    Attributes:
        rows: All jobs that were shown, by id.
        steps: Those of the jobs that were asked for by id and have ended.
        found: When the jobs ended that the state does not hold as ended, those of before the baseline aside.
        unchanged: How many were shown that it does hold as ended.
        gone: Jobs that the API no longer has, for good.
        capped: Whether there were more pages than one poll may ask for.
        beyond: Whether the pages went past the goal's floor.
        failed: Open jobs that could not be read by their id, and why.
    """

    def __init__(self, api: Api, view: View, job_id: str, baseline: float, tracked: Sequence[OpenRun]) -> None:
        self._api = api
        self._view = view
        self._job_id = job_id
        self._baseline = baseline
        self._pages = 0
        self._below = False
        self._oldest = float("inf")
        self.tracked = tracked
        self.failed: dict[str, SourceError] = {}
        self.rows: dict[str, JobRow] = {}
        self.steps: dict[str, list[Step]] = {}
        self.found: list[float] = []
        self.unchanged = 0
        self.invalid = 0
        self.gone: list[str] = []
        self.capped = False
        self.beyond = False

    def read_pages(self, goal: SearchTarget, gaps: Sequence[str]) -> tuple[str, ...]:
        """Reads pages from the newest on, then from each gap of earlier polls; returns the gaps that remain."""
        # While there are gaps it is they that go deep: the newest pages anew would leave no request for them.
        newest = msgspec.structs.replace(goal, deep=False) if gaps else goal
        rests = [self._stretch(newest, ""), *(self._stretch(goal, gap) for gap in gaps)]
        self.beyond = self._below and not goal.deep
        return tuple(dict.fromkeys(rest for rest in rests if rest))

    def _stretch(self, goal: SearchTarget, offset: str) -> str:
        """Reads on from an offset until the goal is reached, "", or time is up: the offset to go on from then."""
        in_gap = bool(offset)
        guard = PageGuard(f"GET {JOBS}")
        while self._pages < MOST_PAGES and not (self._pages and self._view.out_of_time()):
            page = self._ask(offset)
            ended = {row.job_id for row in page.rows if self._api.has_ended(row)}
            # Open jobs may be among those owed. Where something is known to be left to find they do not stand for it.
            hoped = 0 if goal.deep or in_gap else len(self.unresolved())
            guard.check(_ids(page))
            if is_last(page, goal, found=len(self.found) + hoped, ended=ended):
                self._below = self._below or page.oldest < goal.floor
                return ""
            offset = page.rows[-1].job_id
        self.capped = self.capped or self._pages >= MOST_PAGES
        return offset

    def unresolved(self) -> list[OpenRun]:
        """Open jobs of the state that have not been shown yet, oldest first."""
        return [run for run in self.tracked if run.run_id not in self.rows]

    def read_open(self, *, oldest_of_interest: float | None = None) -> None:
        """Asks for the open jobs that no page has shown.

        `oldest_of_interest`: given at the first reading, which wants all open jobs that started after this instant.
        """
        wants_all = oldest_of_interest is not None and bool(self.rows) and self._oldest > oldest_of_interest
        offset, shown, pages = "", 0, 0
        guard = PageGuard(f"GET {JOBS}?status=pending")
        while (wants_all or self.unresolved()) and pages < MOST_PAGES:
            page, total = self._ask_open(offset)
            pages += 1
            shown += len(page.rows)
            guard.check(_ids(page))
            filtered = not any(self._api.has_ended(row) for row in page.rows)
            if not page.rows or (page.repeated and offset) or not filtered or (total is not None and shown >= total):
                return
            offset = page.rows[-1].job_id

    def read_single(self, reach: float) -> None:
        """Asks by id for open jobs that are not shown anywhere; `reach`: how far back the API has them."""
        for number, run in enumerate(self.unresolved()):
            part, began = f"job {run.run_id}", self._view.now
            if number and self._view.out_of_time():
                return
            failure = self._api.failing.get(part)
            if failure is not None and self._api.failing.is_resting(part, began):
                self.failed[run.run_id] = failure.error
                continue
            try:
                row, steps = self._api.one(self._job_id, run.run_id)
            except NotFoundError:
                if run.origin < self._view.now - reach:
                    self.gone.append(run.run_id)
                continue
            except (AuthError, RateLimitedError):
                raise
            except SourceError as error:
                self._api.failing.failed(part, error, began=began, now=self._view.now)
                self.failed[run.run_id] = error
                continue
            self._api.failing.answered(part)
            self._take([row])
            if self._api.has_ended(row):
                self.steps[run.run_id] = steps

    def runs(self) -> list[Run]:
        """The runs that are new or may have changed."""
        ended = self._view.ended(self.rows)
        fresh = [row for row in self.rows.values() if row.job_id not in ended]
        known = self._view.known([row.job_id for row in fresh])
        exact = [row if row.job_id in known else self._exact(row) for row in fresh]
        runs = [to_run(row, self._job_id, self._api.statuses) for row in exact]
        for row, run in zip(exact, runs, strict=True):
            self._api.oddities.note(oddities(row, run, self._view.now))
        return runs

    def ended_since(self, timestamp: float) -> int:
        """How many of the jobs shown ended at or after a time, in whole seconds as lists have it; not in the future."""
        latest = self._view.now + FUTURE_MARGIN
        ends = [row.completed for row in self.rows.values() if row.completed is not None]
        return sum(int(timestamp) <= end <= latest for end in ends)

    def _exact(self, row: JobRow) -> JobRow:
        """Lists cut instants to whole seconds: where a job ended in the second of the baseline, the detail decides."""
        if row.completed is None or not row.completed <= self._baseline < row.completed + 1:
            return row
        return self._api.one(self._job_id, row.job_id)[0]

    def _ask(self, offset: str) -> Page:
        rows, invalid = parse_jobs(self._api.page(self._job_id, _after(offset)), self._api.statuses, first=not offset)
        self._pages += 1
        self.invalid += invalid
        return self._take(rows)

    def _ask_open(self, offset: str) -> tuple[Page, int | None]:
        body = self._api.page(self._job_id, {"status": "pending", **_after(offset)})
        rows, invalid = parse_jobs(body, self._api.statuses, first=not offset)
        self.invalid += invalid
        return self._take(rows), parse_total(body)

    def _take(self, rows: Sequence[JobRow]) -> Page:
        """Puts rows into the books of this search."""
        new = [row for row in rows if row.job_id not in self.rows]
        ids = [row.job_id for row in new]
        known, ended = self._view.known(ids), self._view.ended(ids)
        again = [row for row in rows if row.job_id in self.rows and self._improves(row)]
        self._note_ended([row for row in new if row.job_id not in ended])
        self._note_ended([row for row in again if not self._api.has_ended(self.rows[row.job_id])])
        self.unchanged += len(ended)
        self.rows.update((row.job_id, row) for row in (*new, *again))
        page = Page(rows=tuple(rows), unseen=frozenset(ids) - known, repeated=bool(rows) and not new)
        self._oldest = min(self._oldest, page.oldest)
        return page

    def _improves(self, row: JobRow) -> bool:
        """Whether a row is to be believed rather than the one of its job that an earlier page has shown."""
        return better(self.rows[row.job_id], row, self._api.statuses) == row != self.rows[row.job_id]

    def _note_ended(self, rows: Sequence[JobRow]) -> None:
        """Notes those of these rows that have ended as found."""
        ends = [self._view.now if row.completed is None else row.completed for row in rows if self._api.has_ended(row)]
        self.found += [end for end in ends if end >= int(self._baseline)]


def _ids(page: Page) -> list[str]:
    """The IDs of a page's jobs by which it can be seen to repeat an earlier one.

    A list may end with the job after which it was asked to go on, so a page of one job tells nothing.
    """
    return [row.job_id for row in page.rows] if len(page.rows) > 1 else []


def _after(offset: str) -> dict[str, str]:
    """The parameters of the page that follows a job."""
    return {"offset_job_id": offset, "prev": "false"} if offset else {}
