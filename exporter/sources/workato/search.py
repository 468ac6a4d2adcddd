"""Searches for new jobs of one recipe: on pages, in the list of active jobs, and by ID."""

from collections.abc import Mapping, Sequence
from itertools import count

import msgspec

from exporter.client.client import Client
from exporter.counting.records import OpenRun
from exporter.errors import NotFoundError
from exporter.model import FUTURE_MARGIN, Run, Step
from exporter.sources.failing import FailingParts
from exporter.sources.paging import PageGuard
from exporter.sources.rest import ProblemLog, StatusTable, is_gone, path
from exporter.sources.view import View
from exporter.sources.workato.api import (
    CUSTOMER,
    JOB,
    JOBS,
    RECIPES,
    Recipe,
    WorkatoJob,
    better,
    parse_job,
    parse_jobs,
    parse_recipes,
    parse_total,
    problems_of,
    split_job_id,
    to_run,
)
from exporter.sources.workato.customers import PER_PAGE
from exporter.sources.workato.marks import JobPage, SearchTarget, is_last

MAX_PAGES = 40
"""Maximum number of pages per recipe and poll. The next poll continues."""


class WorkatoApi:
    """Sends requests for recipes and jobs, of customers or of a single workspace."""

    def __init__(self, client: Client, statuses: StatusTable, problems: ProblemLog, failing: FailingParts) -> None:
        self._client = client
        self.statuses = statuses
        self.problems = problems
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
        """Return the body of a response. `customer_id`: "" for a single workspace."""
        template = CUSTOMER + endpoint if customer_id else endpoint
        address = path(template, customer=customer_id, **parts)
        return self._client.get(address, endpoint=template, params=params, patience=patience)

    def recipes(self, customer_id: str) -> tuple[dict[str, Recipe], int]:
        """Return all recipes of a customer by ID, and the number of rows that are not recipes."""
        recipes: dict[str, Recipe] = {}
        guard, invalid = PageGuard(f"GET {RECIPES}"), 0
        for number in count(1):
            params: dict[str, str | int] = {"page": number, "per_page": PER_PAGE, "exclude_code": "true"}
            rows, other = parse_recipes(self.get(customer_id, RECIPES, params))
            invalid += other
            recipes |= {row.recipe_id: row for row in rows}
            if len(rows) + other < PER_PAGE:
                break
            guard.check([row.recipe_id for row in rows])
        return recipes, invalid

    def jobs_body(self, job_id: str, params: Mapping[str, str]) -> bytes:
        """Return the body with a page of a recipe's jobs."""
        customer_id, recipe_id = split_job_id(job_id)
        return self.get(customer_id, JOBS, params, recipe=recipe_id)

    def job_body(self, job_id: str, run_id: str, *, patience: float | None = None) -> bytes:
        """Return the body with a single job. Raises NotFoundError if the API does not have the job."""
        customer_id, recipe_id = split_job_id(job_id)
        return self.get(customer_id, JOB, patience=patience, recipe=recipe_id, job=run_id)

    def job(self, job_id: str, run_id: str) -> tuple[WorkatoJob, list[Step]]:
        """Return a single job with its steps."""
        return parse_job(self.job_body(job_id, run_id), run_id)

    def is_completed(self, row: WorkatoJob) -> bool:
        """Return whether a job has completed."""
        return to_run(row, "", self.statuses).result is not None


class Search:
    """One poll's search for new jobs of one recipe.

    Args:
        job_id: The recipe's ID in the ledger.
        baseline: The scope's baseline: jobs that completed before it do not count.
        tracked: The recipe's active jobs in the state, oldest first.

    Attributes:
        rows: All jobs found so far, by ID.
        steps: Steps of the completed jobs that were read by ID.
        found: Ends of newly completed jobs, except ends before the baseline.
        unchanged: Number of jobs about which the state already has everything.
        invalid: Number of rows that are not jobs.
        gone: IDs of jobs that the API no longer has.
        capped: Whether there are more pages than one poll may read.
        beyond: Whether the search went past the target's floor.
    """

    def __init__(self, api: WorkatoApi, view: View, job_id: str, baseline: float, tracked: Sequence[OpenRun]) -> None:
        self._api = api
        self._view = view
        self._job_id = job_id
        self._baseline = baseline
        self._oldest = float("inf")
        self._tracked = tracked
        self.rows: dict[str, WorkatoJob] = {}
        self.steps: dict[str, list[Step]] = {}
        self.found: list[float] = []
        self.gone: list[str] = []
        self._pages = self.unchanged = self.invalid = 0
        self._below_floor = self.beyond = self.capped = False

    def read_pages(self, target: SearchTarget, offsets: Sequence[str]) -> tuple[str, ...]:
        """Read the newest pages, then the pages after each unread offset. Return the offsets that are still unread."""
        # A deep search of the newest pages would leave no requests for the pages after unread offsets.
        newest = msgspec.structs.replace(target, deep=False) if offsets else target
        unread = [self._read_from(newest, ""), *(self._read_from(target, offset) for offset in offsets)]
        self.beyond = self._below_floor and not target.deep
        return tuple(dict.fromkeys(offset for offset in unread if offset))

    def _read_from(self, target: SearchTarget, offset: str) -> str:
        """Read the pages after an offset. Return the offset at which time ran out; "" if the search has ended."""
        is_old = bool(offset)
        guard = PageGuard(f"GET {JOBS}")
        while self._pages < MAX_PAGES and not (self._pages and self._view.out_of_time()):
            page, _ = self._read_page(offset)
            self._pages += 1
            completed = {row.job_id for row in page.rows if self._api.is_completed(row)}
            # An active job in the state may have completed and be one of the missing jobs, so it counts as found.
            active = 0 if target.deep or is_old else len(self.unresolved())
            guard.check(_ids(page))
            if is_last(page, target, found=len(self.found) + active, completed=completed):
                self._below_floor = self._below_floor or page.oldest < target.floor
                return ""
            offset = page.rows[-1].job_id
        self.capped = self.capped or self._pages >= MAX_PAGES
        return offset

    def unresolved(self) -> list[OpenRun]:
        """Return the active jobs in the state that were not found yet, oldest first."""
        return [run for run in self._tracked if run.run_id not in self.rows]

    def read_active(self, *, all_since: float | None = None) -> None:
        """Read the list of active jobs, up to the last one that is in the state or started after `all_since`."""
        wants_all = all_since is not None and bool(self.rows) and self._oldest > all_since
        offset, shown, pages = "", 0, 0
        guard = PageGuard(f"GET {JOBS}?status=pending")
        while (wants_all or self.unresolved()) and pages < MAX_PAGES:
            page, total = self._read_page(offset, status="pending")
            pages += 1
            shown += len(page.rows)
            guard.check(_ids(page))
            filtered = not any(self._api.is_completed(row) for row in page.rows)
            if not page.rows or (page.repeated and offset) or not filtered or (total is not None and shown >= total):
                return
            offset = page.rows[-1].job_id

    def read_by_id(self, reach: float) -> None:
        """Read by ID the active jobs that were not found yet. `reach`: seconds for which the API keeps jobs."""
        missing = {run.run_id: run for run in self.unresolved()}
        for number, (run_id, run) in enumerate(missing.items()):
            if number and self._view.out_of_time():
                return
            if self._api.failing.skips(f"job {run_id}", self._view.now):
                continue
            with self._api.failing.read(f"job {run_id}", self._view):
                self._read_job(run, reach)

    def _read_job(self, run: OpenRun, reach: float) -> None:
        try:
            row, steps = self._api.job(self._job_id, run.run_id)
        except NotFoundError:
            if is_gone(run, self._view.now, reach):
                self.gone.append(run.run_id)
            return
        self._add([row])
        if self._api.is_completed(row):
            self.steps[run.run_id] = steps

    def runs(self) -> list[Run]:
        """Return the runs that are new or may have changed."""
        ended = self._view.ended(self.rows)
        fresh = [row for row in self.rows.values() if _is_new(row, ended)]
        self.unchanged = len(self.rows) - len(fresh)
        known = self._view.known([row.job_id for row in fresh])
        exact = [row if row.job_id in known else self._exact(row) for row in fresh]
        runs = [to_run(row, self._job_id, self._api.statuses) for row in exact]
        for row, run in zip(exact, runs, strict=True):
            self._api.problems.add(problems_of(row, run, self._view.now))
        return runs

    def ended_since(self, timestamp: float) -> int:
        """Return the number of jobs that completed at a time or later, but not in the future."""
        # Ends in lists are whole seconds, so a job in the same second counts.
        latest = self._view.now + FUTURE_MARGIN
        ends = [row.completed for row in self.rows.values() if row.completed is not None]
        return sum(int(timestamp) <= end <= latest for end in ends)

    def _exact(self, row: WorkatoJob) -> WorkatoJob:
        # Ends in lists are whole seconds. If a job ended in the second of the baseline, it is read by ID for its exact
        # end.
        if row.completed is None or not row.completed <= self._baseline < row.completed + 1:
            return row
        # If this fails, the other jobs of the recipe are counted all the same.
        with self._api.failing.read(f"job {row.job_id}", self._view):
            row, _ = self._api.job(self._job_id, row.job_id)
        return row

    def _read_page(self, offset: str, **filters: str) -> tuple[JobPage, int | None]:
        """Read the page after an offset. Also return the number of jobs that match the filters; None if unknown."""
        after = {"offset_job_id": offset, "prev": "false"} if offset else {}
        body = self._api.jobs_body(self._job_id, {**filters, **after})
        rows, invalid = parse_jobs(body, self._api.statuses, first=not offset)
        self.invalid += invalid
        return self._add(rows), parse_total(body) if filters else None

    def _add(self, rows: Sequence[WorkatoJob]) -> JobPage:
        new = [row for row in rows if row.job_id not in self.rows]
        ids = [row.job_id for row in new]
        known, ended = self._view.known(ids), self._view.ended(ids)
        better_rows = [row for row in rows if row.job_id in self.rows and self._is_better(row)]
        self._note_completed([row for row in new if row.job_id not in ended])
        self._note_completed([row for row in better_rows if not self._api.is_completed(self.rows[row.job_id])])
        self.rows.update((row.job_id, row) for row in (*new, *better_rows))
        page = JobPage(rows=tuple(rows), unseen=frozenset(ids) - known, repeated=bool(rows) and not new)
        self._oldest = min(self._oldest, page.oldest)
        return page

    def _is_better(self, row: WorkatoJob) -> bool:
        """Return whether a row is better than the row of the same job on an earlier page."""
        return better(self.rows[row.job_id], row, self._api.statuses) == row != self.rows[row.job_id]

    def _note_completed(self, rows: Sequence[WorkatoJob]) -> None:
        ends = [
            self._view.now if row.completed is None else row.completed for row in rows if self._api.is_completed(row)
        ]
        self.found += [end for end in ends if end >= int(self._baseline)]


def _is_new(row: WorkatoJob, ended: Mapping[str, float | None]) -> bool:
    """Return whether a job is not in the state as completed, or has an end that the state does not have."""
    return row.job_id not in ended or (ended[row.job_id] is None and row.completed is not None)


def _ids(page: JobPage) -> list[str]:
    """Return the IDs of a page, to check whether it repeats an earlier page."""
    # The last page may consist of the job at the offset, so a page with a single job is not checked.
    return [row.job_id for row in page.rows] if len(page.rows) > 1 else []
