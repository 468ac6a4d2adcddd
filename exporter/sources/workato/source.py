"""Reads Workato. A recipe counts its jobs, so that only recipes with new jobs are read. Active jobs are read by ID."""

from collections.abc import Generator, Iterator, Mapping, Sequence

import msgspec

from exporter.client.client import Client
from exporter.config.source import DAY
from exporter.counting.records import OpenRun
from exporter.errors import AuthError, ForbiddenError, NotFoundError, RateLimitedError, SourceError
from exporter.model import Batch, Result, Run, Step, Window
from exporter.sources.failing import PATIENCE
from exporter.sources.rest import ProblemLog, bearer_access, path, status_table
from exporter.sources.source import Source, SourceType, StepLog
from exporter.sources.view import View
from exporter.sources.workato.api import (
    CUSTOMER,
    JOB,
    JOBS,
    RECIPES,
    STATUSES,
    USERS,
    Customer,
    Recipe,
    job_id_of,
    parse_error,
    parse_job,
    split_job_id,
    to_job,
)
from exporter.sources.workato.customers import CustomerList, CustomerOrder, part_of
from exporter.sources.workato.marks import (
    MARKS,
    UNREADABLE,
    ReadMark,
    SearchResult,
    SearchTarget,
    UnreadableRecipe,
    count_missing,
    decode_checkpoint,
    encode_checkpoint,
    mark_after,
    marks_key,
    needs_read,
    unfinished,
    unreadable_key,
)
from exporter.sources.workato.search import Search, WorkatoApi
from exporter.sources.workato.settings import WorkatoSettings

# By default, workspaces keep jobs for at least this long.
REACH = 30 * DAY
FIRST_DEPTH = DAY
"""Maximum seconds that the first read of a scope goes back."""
# Consecutive unreadable customers after which all others wait for the next poll.
MAX_FAILURES = 3
# The marks of recipes that are no longer listed are kept, because a list may be wrong; at most this many per customer.
MAX_FORMER_RECIPES = 1000
DENIALS = (AuthError, ForbiddenError)
REFUSALS = (*DENIALS, NotFoundError)
LIST_OF_CUSTOMERS = "list of managed users"

OpenRuns = Mapping[str, Sequence[OpenRun]]
"""Active runs of a scope by job ID, oldest first."""


class CustomerRecipes(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's recipes in one poll.

    Attributes:
        recipes: The listed recipes, by ID.
        marks: Read marks by recipe ID, updated while jobs are read.
        unreadable: Unreadable recipes by ID, updated while jobs are read.
        open_runs: Active runs in the state before this poll.
        requested: Time at which the recipes were listed.
    """

    scope: str
    recipes: Mapping[str, Recipe]
    marks: dict[str, ReadMark]
    unreadable: dict[str, UnreadableRecipe]
    open_runs: OpenRuns
    requested: float


class WorkatoSource(Source):
    """Reads the jobs of all customers, or of one workspace."""

    def __init__(self, settings: WorkatoSettings, client: Client) -> None:
        super().__init__(client)
        self._settings = settings
        statuses = status_table(STATUSES, settings.status_map)
        self._api = WorkatoApi(client, statuses, ProblemLog(settings.name), self._failing)
        self._customers = CustomerList(settings, client)
        self._order = CustomerOrder(settings.poll_interval, self._failing)
        self._requested: dict[str, float] = {}

    # --- customers ---

    def fetch(self, view: View) -> Iterator[Batch]:
        """Read the recipes and jobs of each customer, busy customers first, until the poll's time is up.

        An error of one customer, recipe or job does not end the poll; it is raised at the end.
        """
        began, failed, any_read = view.now, 0, False
        self._failing.start_poll()
        if (error := self._customers.refresh(view.now)) is not None:
            self._failing.errors[LIST_OF_CUSTOMERS] = error
        # Customers are removed after they were missing in several lists, so each list is used only once.
        if self._customers.fresh:
            yield from self._vanished_customers(view)
        open_runs = _by_scope(view.open_runs())
        for number, customer in enumerate(self._order.ordered(self._customers.known, open_runs.keys(), began)):
            if (number and view.out_of_time()) or failed >= MAX_FAILURES:
                break
            part = part_of(customer)
            if self._failing.skips(part, view.now):
                continue
            try:
                with self._failing.read(part, view, raising=REFUSALS):
                    yield from self._read_customer(view, customer, open_runs.get(customer.customer_id, {}))
            except REFUSALS as error:
                yield self._refusal(customer, error, view.now, any_read=any_read)
                self._failing.succeeded(part)
            if part not in self._failing.errors:
                any_read, failed = True, 0
                continue
            failed += 1
            if any_read and self._failing.is_overdue(part, view.now):
                yield self._unreadable(customer)
        self._order.end_poll(self._customers.known, began, view.now)
        self._raise_errors(view.now, any_read=any_read)

    def _raise_errors(self, now: float, *, any_read: bool) -> None:
        # If no customer could be read, the source as a whole is unreadable.
        if self._failing.errors and not any_read:
            raise next(reversed(self._failing.errors.values()))
        self._failing.raise_errors(map(part_of, self._customers.known), now)

    def _refusal(self, customer: Customer, error: SourceError, now: float, *, any_read: bool) -> Batch:
        """Return the batch of a customer that may not be read. Raises the error if the token itself is refused."""
        if self._settings.mode == "developer":
            raise error
        if isinstance(error, AuthError) and not any_read:
            # This raises if the token itself is refused.
            self._customers.read_page()
        self._order.refused.add(customer.customer_id)
        self._order.note_read(customer.customer_id, now)
        return self._unreadable(customer)

    def _unreadable(self, customer: Customer) -> Batch:
        """Return the batch of an unreadable customer: the source's watermark ignores the customer."""
        return Batch(scope=customer.customer_id, readable=False, listing=self._customers.listing)

    def _vanished_customers(self, view: View) -> Iterator[Batch]:
        """Yield a batch per customer that the list no longer shows. After its scope, its checkpoints are removed."""
        known = {customer.customer_id for customer in self._customers.known}
        prefixes = (marks_key(""), unreadable_key(""))
        stored = {name.removeprefix(each) for name in view.checkpoints for each in prefixes if name.startswith(each)}
        for scope in sorted((view.scopes | stored) - known):
            checkpoints = {} if scope in view.scopes else {marks_key(scope): "", unreadable_key(scope): ""}
            yield Batch(scope=scope, exists=False, checkpoints=checkpoints)

    # --- recipes ---

    def _read_customer(self, view: View, customer: Customer, open_runs: OpenRuns) -> Iterator[Batch]:
        requested, scope = view.now, customer.customer_id
        recipes, invalid = self._api.recipes(scope)
        self._order.refused.discard(scope)
        before = decode_checkpoint(view.checkpoints.get(marks_key(scope), ""), MARKS)
        too_many = len(before) > len(recipes) + MAX_FORMER_RECIPES
        marks = {key: mark for key, mark in before.items() if key in recipes} if too_many else before
        unreadable = decode_checkpoint(view.checkpoints.get(unreadable_key(scope), ""), UNREADABLE)
        listed = CustomerRecipes(
            scope=scope,
            recipes=recipes,
            marks=dict(marks),
            unreadable={key: recipe for key, recipe in unreadable.items() if key in recipes},
            open_runs=open_runs,
            requested=requested,
        )
        to_read = self._recipes_to_read(view, listed)
        through = requested - self._settings.settle
        yield Batch(
            scope=scope,
            jobs=[to_job(recipe, customer, self._link_to(recipe)) for recipe in recipes.values()],
            catalog=True,
            listing=self._customers.listing,
            invalid=invalid,
            checkpoints={} if marks is before and before else {marks_key(scope): encode_checkpoint(marks)},
            through=None if to_read else through,
        )
        complete = yield from self._read_recipes(view, listed, to_read)
        (self._order.unfinished.discard if complete else self._order.unfinished.add)(scope)
        checkpoints = (
            {} if listed.unreadable == unreadable else {unreadable_key(scope): encode_checkpoint(listed.unreadable)}
        )
        if checkpoints or (complete and to_read):
            yield Batch(scope=scope, through=through if complete else None, checkpoints=checkpoints)
        if not to_read:
            self._order.note_read(scope, view.now)

    def _read_recipes(self, view: View, listed: CustomerRecipes, ids: Sequence[str]) -> Generator[Batch, None, bool]:
        """Read the jobs of these recipes. Return whether all were read completely.

        A recipe that was unreadable for longer than PATIENCE is ignored. When it is readable again, its jobs are read
        from the time up to which they were read before.
        """
        any_unfinished, any_failed, denied, any_read = False, False, list[SourceError](), False
        for number, key in enumerate(ids):
            if number and view.out_of_time():
                return False
            error = yield from self._try_recipe(view, listed, key)
            any_read = any_read or error is None
            if error is None:
                any_unfinished = any_unfinished or unfinished(listed.marks.get(key))
                continue
            denied += [error] if isinstance(error, DENIALS) else []
            since = listed.unreadable.setdefault(key, self._unreadable_recipe(view, listed.scope)).since
            any_failed = any_failed or not view.now - since >= PATIENCE
        if denied and not any_read and (len(denied) > 1 or not listed.marks):
            # The token may not read this customer.
            raise denied[0]
        if not any_unfinished:
            self._order.note_read(listed.scope, view.now)
        return not any_unfinished and not any_failed

    def _unreadable_recipe(self, view: View, scope: str) -> UnreadableRecipe:
        watermark = view.watermark(scope)
        return UnreadableRecipe(since=view.now, read=view.baseline(scope) if watermark is None else watermark)

    def _try_recipe(self, view: View, listed: CustomerRecipes, key: str) -> Generator[Batch, None, SourceError | None]:
        """Read the jobs of a recipe. Return the error; None if there was none."""
        part, began = f"recipe {job_id_of(listed.scope, key)}", view.now
        failure = self._failing.get(part)
        if failure is not None and self._failing.skips(part, began):
            return failure.error
        self._requested[job_id_of(listed.scope, key)] = began
        try:
            yield (self._read_recipe if key in listed.recipes else self._read_deleted_recipe)(view, listed, key)
        except RateLimitedError:
            raise
        except SourceError as error:
            self._failing.failed(part, error, began=began, now=view.now)
            # The recipe was probably deleted after it was listed. The next list will show that.
            if isinstance(error, NotFoundError) and failure is None:
                del self._failing.errors[part]
            return error
        self._failing.succeeded(part)
        return None

    def _link_to(self, recipe: Recipe) -> str:
        return f"{self._settings.base_url}{path(RECIPES + '/{recipe}', recipe=recipe.recipe_id)}"

    def _recipes_to_read(self, view: View, listed: CustomerRecipes) -> list[str]:
        """Return the IDs of the recipes to read: recipes that have waited longest first, unreadable recipes last."""
        recipes, marks = listed.recipes, listed.marks
        active = dict.fromkeys(split_job_id(job_id)[1] for job_id in listed.open_runs)
        included = {key: None for key, recipe in recipes.items() if view.includes(recipe.name or key)}
        changed = [key for key in included if key not in active and needs_read(marks.get(key), recipes[key])]
        return sorted(
            [*(key for key in active if key in included or key not in recipes), *changed],
            key=lambda key: (key in listed.unreadable, self._requested.get(job_id_of(listed.scope, key), 0.0)),
        )

    # --- jobs ---

    def _search(self, view: View, listed: CustomerRecipes, key: str) -> Search:
        job_id = job_id_of(listed.scope, key)
        return Search(self._api, view, job_id, view.baseline(listed.scope), listed.open_runs.get(job_id, ()))

    def _read_recipe(self, view: View, listed: CustomerRecipes, key: str) -> Batch:
        scope, recipe, mark = listed.scope, listed.recipes[key], listed.marks.get(key)
        unreadable = listed.unreadable.get(key)
        watermark = view.watermark(scope) if unreadable is None else unreadable.read
        target = self._target(view, scope, recipe, mark, watermark)
        search = self._search(view, listed, key)
        offsets = search.read_pages(target, mark.unread_offsets if mark else ())
        search.read_active(all_since=None if mark else view.now - self._settings.max_run_age)
        search.read_by_id(REACH)
        runs = search.runs()
        recent = search.ended_since(listed.requested - self._settings.settle)
        result = SearchResult(
            completed=len(search.found),
            recent=recent,
            unread_offsets=offsets,
            lacks_end=any(run.result is not None and run.end is None for run in runs),
            beyond=search.beyond,
        )
        listed.marks[key], missed = mark_after(recipe, mark, target, result)
        checkpoints = {marks_key(scope): encode_checkpoint(listed.marks)}
        if listed.unreadable.pop(key, None) is not None:
            checkpoints[unreadable_key(scope)] = encode_checkpoint(listed.unreadable)
        lost = watermark is not None and missed and watermark < target.floor
        return Batch(
            scope=scope,
            runs=runs,
            steps=search.steps,
            unchanged=search.unchanged,
            invalid=search.invalid,
            truncated=int(search.capped) + int(missed),
            unobserved=[Window(watermark, target.floor)] if lost and watermark is not None else [],
            gone=search.gone,
            checkpoints=checkpoints,
        )

    def _target(
        self, view: View, scope: str, recipe: Recipe, mark: ReadMark | None, watermark: float | None
    ) -> SearchTarget:
        settings = self._settings
        deep = mark is not None and mark.tries > 0
        floor = view.now - (FIRST_DEPTH if watermark is None else settings.lookback)
        # A recipe that is new in a known scope has no jobs from before its watermark.
        if watermark is not None and (deep or mark is None):
            floor = max(floor, watermark - settings.overlap)
        baseline = view.baseline(scope) if mark is None or watermark is None else None
        return SearchTarget(missing=count_missing(mark, recipe), floor=floor, baseline=baseline, deep=deep)

    def _read_deleted_recipe(self, view: View, listed: CustomerRecipes, key: str) -> Batch:
        """Return the batch of a recipe that is no longer listed: its active jobs."""
        search = self._search(view, listed, key)
        search.read_by_id(REACH)
        return Batch(scope=listed.scope, runs=search.runs(), steps=search.steps, gone=search.gone)

    # --- steps, errors, and the check of the config ---

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """Return the lines of a completed job."""
        return parse_job(self._api.job_body(run.job_id, run.run_id, patience=patience), run.run_id)[1]

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """Return the error text of a job, or of one of its steps."""
        return StepLog(stderr=parse_error(self._api.job_body(run.job_id, run.run_id, patience=patience), step_name))

    def probe(self) -> str:
        """Sign in and read the first page of managed users, or the recipes."""
        if self._settings.mode == "embedded":
            return f"signed in, {len(self._customers.read_page()[0])} managed users on the first page"
        return f"signed in, {len(self._api.recipes('')[0])} recipes"

    def round_seconds(self) -> float:
        """Return the seconds that it takes to read every customer once; 0 while every poll reads all customers."""
        return self._order.round_seconds


def _by_scope(runs: Sequence[OpenRun]) -> dict[str, dict[str, list[OpenRun]]]:
    scopes: dict[str, dict[str, list[OpenRun]]] = {}
    for run in runs:
        scopes.setdefault(run.scope, {}).setdefault(run.job_id, []).append(run)
    return scopes


TYPE = SourceType(
    settings=WorkatoSettings,
    build=WorkatoSource,
    access=lambda settings: bearer_access(settings, settings.auth.api_token),
    identity=lambda settings: f"workato {settings.base_url} {settings.mode}",
    results=(Result.SUCCESS, Result.FAILURE, Result.UNKNOWN),
    has_attempts=True,
    has_steps=True,
    endpoints=(USERS, *(prefix + each for prefix in (CUSTOMER, "") for each in (RECIPES, JOBS, JOB))),
    reach=REACH,
)
