"""Searches for new jobs of one recipe: on pages, in the list of active jobs, and by ID."""

from collections.abc import Mapping, Sequence
from itertools import count

import msgspec

from exporter.client.client import Client
from exporter.config.source import DAY
from exporter.counting.records import OpenRun
from exporter.errors import NotFoundError
from exporter.model import FUTURE_MARGIN, Run, Step, one_row_per_run
from exporter.sources.failing import FailingParts
from exporter.sources.rest import PageGuard, is_gone, path, status_table
from exporter.sources.view import View
from exporter.sources.workato.api import (
    CUSTOMER,
    JOB,
    JOBS,
    RECIPES,
    STATUSES,
    Recipe,
    parse_job,
    parse_jobs,
    parse_recipes,
    parse_total,
    split_job_id,
)
from exporter.sources.workato.customers import PER_PAGE
from exporter.sources.workato.marks import JobPage, SearchTarget, is_last
from exporter.sources.workato.settings import WorkatoSettings

# By default, workspaces keep jobs for at least this long.
REACH = 30 * DAY
MAX_PAGES = 40
"""Maximum number of pages per recipe and poll. The next poll continues."""


class WorkatoApi:
    """Sends requests for recipes and jobs, of customers or of a single workspace."""

    def __init__(self, client: Client, settings: WorkatoSettings, failing: FailingParts) -> None:
        self._client = client
        self._statuses = status_table(STATUSES, settings.status_map)
        self.settings = settings
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

    def jobs(self, job_id: str, params: Mapping[str, str]) -> tuple[list[Run], int, int | None]:
        """Return a page of a recipe's jobs, the number of other rows, and the number of jobs that match the filter."""
        customer_id, recipe_id = split_job_id(job_id)
        body = self.get(customer_id, JOBS, params, recipe=recipe_id)
        first = "offset_job_id" not in params
        return *parse_jobs(body, job_id, self._statuses, first=first), parse_total(body)

    def job_body(self, job_id: str, run_id: str, *, patience: float | None = None) -> bytes:
        """Return the body with a single job. Raises NotFoundError if the API does not have the job."""
        customer_id, recipe_id = split_job_id(job_id)
        return self.get(customer_id, JOB, patience=patience, recipe=recipe_id, job=run_id)

    def job(self, job_id: str, run_id: str, *, patience: float | None = None) -> tuple[Run, list[Step]]:
        """Return a single job with its steps. Raises NotFoundError if the API does not have the job."""
        return parse_job(self.job_body(job_id, run_id, patience=patience), job_id, run_id, self._statuses)


class Search:
    """One poll's search for new jobs of one recipe.

    Args:
        job_id: The recipe's ID in the ledger.
        tracked: The recipe's active jobs in the state, oldest first.

    Attributes:
        rows: The best row of each job found so far, by ID.
        steps: Steps of the completed jobs that were read by ID.
        found: Number of newly completed jobs, without those that ended before the baseline.
        invalid: Number of rows that are not jobs.
        gone: IDs of jobs that the API no longer has.
        capped: Whether there are more pages than one poll may read.
        beyond: Whether the search went past the target's floor.
    """

    def __init__(self, api: WorkatoApi, view: View, job_id: str, tracked: Sequence[OpenRun]) -> None:
        self._api = api
        self._failing = api.failing
        self._view = view
        self._job_id = job_id
        self._baseline = view.baseline(split_job_id(job_id)[0])
        self._tracked = tracked
        self.rows: dict[str, Run] = {}
        self.steps: dict[str, list[Step]] = {}
        self.gone: list[str] = []
        self._pages = self.found = self.invalid = 0
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
            page, _ = self._read_page(offset, guard)
            self._pages += 1
            # An active job in the state may have completed and be one of the missing jobs, so it counts as found.
            active = 0 if target.deep or is_old else len(self.unresolved())
            if is_last(page, target, self.found + active):
                self._below_floor = self._below_floor or page.oldest < target.floor
                return ""
            offset = page.runs[-1].run_id
        self.capped = self.capped or self._pages >= MAX_PAGES
        return offset

    def unresolved(self) -> list[OpenRun]:
        """Return the active jobs in the state that were not found yet, oldest first."""
        return [run for run in self._tracked if run.run_id not in self.rows]

    def read_active(self, *, all_since: float | None = None) -> None:
        """Read the list of active jobs, up to the last one that is in the state or started after `all_since`."""
        starts = [run.start for run in self.rows.values() if run.start is not None]
        wants_all = all_since is not None and bool(self.rows) and min(starts, default=all_since + 1) > all_since
        offset, shown, pages = "", 0, 0
        guard = PageGuard(f"GET {JOBS}?status=pending")
        while (wants_all or self.unresolved()) and pages < MAX_PAGES:
            page, total = self._read_page(offset, guard, status="pending")
            pages += 1
            shown += len(page.runs)
            filtered = all(run.result is None for run in page.runs)
            if not page.runs or (page.repeated and offset) or not filtered or (total is not None and shown >= total):
                return
            offset = page.runs[-1].run_id

    def read_by_id(self) -> None:
        """Read by ID the active jobs that were not found yet."""
        for number, run in enumerate(self.unresolved()):
            if number and self._view.out_of_time():
                return
            part = f"job {run.run_id}"
            if not self._failing.skips(part, self._view.now):
                with self._failing.read(part, self._view):
                    self._read_job(run)

    def _read_job(self, run: OpenRun) -> None:
        try:
            row, steps = self._api.job(self._job_id, run.run_id)
        except NotFoundError:
            if is_gone(run, self._view.now, REACH):
                self.gone.append(run.run_id)
            return
        self._add([row])
        if row.result is not None:
            self.steps[run.run_id] = steps

    def runs(self) -> list[Run]:
        """Return the runs that are new or may have changed."""
        ended = self._view.ended(self.rows)
        fresh = {run_id: run for run_id, run in self.rows.items() if _is_new(run, ended)}
        known = self._view.known(fresh)
        return [run if run_id in known else self._exact(run) for run_id, run in fresh.items()]

    def ended_since(self, timestamp: float) -> int:
        """Return the number of jobs that completed at a time or later, but not in the future."""
        # Ends in lists are whole seconds, so a job in the same second counts.
        latest = self._view.now + FUTURE_MARGIN
        return sum(run.end is not None and int(timestamp) <= run.end <= latest for run in self.rows.values())

    def _exact(self, run: Run) -> Run:
        # Ends in lists are whole seconds. If a job ended in the second of the baseline, it is read by ID for its exact
        # end.
        if run.end is None or not run.end <= self._baseline < run.end + 1:
            return run
        # If this fails, the other jobs of the recipe are counted all the same.
        with self._failing.read(f"job {run.run_id}", self._view):
            run, _ = self._api.job(self._job_id, run.run_id)
        return run

    def _read_page(self, offset: str, guard: PageGuard, **filters: str) -> tuple[JobPage, int | None]:
        """Read the page after an offset. Also return the number of jobs that match the filters; None if unknown."""
        after = {"offset_job_id": offset, "prev": "false"} if offset else {}
        runs, invalid, total = self._api.jobs(self._job_id, {**filters, **after})
        self.invalid += invalid
        page = self._add(runs)
        # The last page may consist of the job at the offset, so a page with a single job is not checked.
        guard.check([run.run_id for run in runs] if len(runs) > 1 else [])
        return page, total

    def _add(self, runs: Sequence[Run]) -> JobPage:
        new = [run.run_id for run in runs if run.run_id not in self.rows]
        known, ended = self._view.known(new), self._view.ended(new)
        for run in runs:
            before = self.rows.get(run.run_id)
            best = run if before is None else one_row_per_run((before, run))[0]
            was_active = run.run_id not in ended if before is None else before.result is None
            if was_active and best.result is not None:
                self.found += best.end is None or best.end >= int(self._baseline)
            self.rows[run.run_id] = best
        return JobPage(runs=runs, unseen=frozenset(new) - known, repeated=bool(runs) and not new)


def _is_new(run: Run, ended: Mapping[str, float | None]) -> bool:
    """Return whether a job is not in the state as completed, or has an end that the state does not have."""
    return run.run_id not in ended or (ended[run.run_id] is None and run.end is not None)
