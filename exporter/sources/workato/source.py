"""Workato: how jobs are found by the counts of their recipes, page by page, and by id."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import count

import msgspec

from exporter.client.client import Client
from exporter.client.signin import BearerAuth
from exporter.config.source import DAY
from exporter.counting.records import OpenRun
from exporter.errors import AuthError, ForbiddenError, NotFoundError, PartialError, RateLimitedError, SourceError
from exporter.model import Batch, Result, Run, Step, Window
from exporter.sources.failing import PATIENCE, FailingParts
from exporter.sources.oddities import NO_RUN, Oddities
from exporter.sources.paging import PageGuard
from exporter.sources.rest import path
from exporter.sources.source import Access, SourceType, StepLog, View
from exporter.sources.workato.api import (
    CUSTOMER,
    JOB,
    JOBS,
    RECIPES,
    USERS,
    Customer,
    Recipe,
    job_id_of,
    parse_error,
    parse_job,
    parse_recipes,
    split_job_id,
    statuses,
    to_job,
)
from exporter.sources.workato.customers import PER_PAGE, Customers, Turns, part_of
from exporter.sources.workato.marks import (
    Found,
    ReadMark,
    SearchTarget,
    Unread,
    after,
    decode_marks,
    decode_unread,
    encode_marks,
    encode_unread,
    is_deep,
    owed,
    to_be_read,
    unfinished,
)
from exporter.sources.workato.search import Api, Search
from exporter.sources.workato.settings import WorkatoSettings

REACH = 30 * DAY
"""The least that workspaces keep jobs unless they are told to keep less."""
FIRST_REACH = DAY
"""How far back the first reading of a scope goes."""
FAULTS = 3
"""Customers in a row that could not be asked, after which the rest waits for the next poll."""
MOST_FORMER = 1000
"""Recipes no longer listed of which a customer's marks are kept: one wrong list must not forget them."""
DENIALS = (AuthError, ForbiddenError)
REFUSALS = (*DENIALS, NotFoundError)
LIST_OF_CUSTOMERS = "list of managed users"

OpenRuns = Mapping[str, Sequence[OpenRun]]
"""Open runs of a scope by job, oldest first."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's recipes by id as they were listed at the time `asked`.

    `marks` and `unread` are renewed as jobs are read. `open_runs` are those of the state before.
    """

    scope: str
    recipes: Mapping[str, Recipe]
    marks: dict[str, ReadMark]
    unread: dict[str, Unread]
    open_runs: OpenRuns
    asked: float


class WorkatoSource:
    """Reads the jobs of all customers' recipes, or of one workspace's.

    Args:
        settings: Its configuration.
        client: Its API.
    """

    def __init__(self, settings: WorkatoSettings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._failing = FailingParts()
        self._api = Api(client, statuses(settings.status_map), Oddities(settings.name), self._failing)
        self._customers = Customers(settings, client)
        self._turns = Turns(settings.poll_interval, self._failing)
        self._looked: dict[str, float] = {}
        self._parts: dict[str, SourceError] = {}

    # --- customers ---

    def fetch(self, view: View) -> Iterator[Batch]:
        """Each customer's recipes and jobs, those with open or changed things first, for as long as time allows.

        A customer, a recipe or a job that cannot be read costs no other: what could not be read is raised in the end.
        """
        began, failed, answered = view.now, 0, False
        self._parts = {}
        if (error := self._customers.refresh(view.now)) is not None:
            self._parts[LIST_OF_CUSTOMERS] = error
        if self._customers.fresh:  # or one wrong list would be told again and again
            yield from self._of_vanished(view)
        open_runs = _by_scope(view.open_runs())
        for number, customer in enumerate(self._turns.ordered(self._customers.known, open_runs.keys(), began)):
            if (number and view.out_of_time()) or failed >= FAULTS:
                break
            part, asked = part_of(customer), view.now
            if self._failing.is_resting(part, asked):
                self._note_resting(part)
                continue
            try:
                yield from self._of_customer(view, customer, open_runs.get(customer.customer_id, {}))
            except REFUSALS as error:
                yield self._refusal(customer, error, view.now, answered=answered)
            except RateLimitedError:
                raise
            except SourceError as error:
                failed += 1
                self._note_failed(part, error, asked, view.now)
                if answered and self._failing.is_overdue(part, view.now):
                    yield self._unreadable(customer)
                continue
            answered, failed = True, 0
            self._failing.answered(part)
        self._turns.end_poll(self._customers.known, began, view.now)
        self._raise_parts(answered=answered)

    def _raise_parts(self, *, answered: bool) -> None:
        """Raise what could not be read; without any answer of a customer that is the source as a whole."""
        if self._parts and not answered:
            raise next(reversed(self._parts.values()))
        if self._parts:
            raise PartialError(self._parts)

    def _note_failed(self, part: str, error: SourceError, began: float, now: float) -> None:
        self._failing.failed(part, error, began=began, now=now)
        self._parts[part] = error

    def _note_resting(self, part: str) -> None:
        """Note a part that failed lately and is left alone for now."""
        failure = self._failing.get(part)
        if failure is not None:
            self._parts[part] = failure.error

    def _refusal(self, customer: Customer, error: SourceError, now: float, *, answered: bool) -> Batch:
        """That a customer is not readable, unless it is the token itself that is refused."""
        if self._settings.mode == "developer":
            raise error
        if isinstance(error, AuthError) and not answered:
            self._customers.ask()  # raises if it is the token
        self._turns.refused.add(customer.customer_id)
        self._turns.note_read(customer.customer_id, now)
        return self._unreadable(customer)

    def _unreadable(self, customer: Customer) -> Batch:
        """That a customer cannot be read: its watermark stays as it is, and does not hold that of the source."""
        return Batch(scope=customer.customer_id, readable=False, listing=self._customers.listing)

    def _of_vanished(self, view: View) -> Iterator[Batch]:
        """Customers that the list no longer shows; when one is forgotten as well, so are its notes."""
        known = {customer.customer_id for customer in self._customers.known}
        prefixes = (note_of(""), unread_note_of(""))
        noted = {name.removeprefix(each) for name in view.notes for each in prefixes if name.startswith(each)}
        for scope in sorted((view.scopes | noted) - known):
            notes = {} if scope in view.scopes else {note_of(scope): "", unread_note_of(scope): ""}
            yield Batch(scope=scope, exists=False, notes=notes)

    # --- recipes ---

    def _of_customer(self, view: View, customer: Customer, open_runs: OpenRuns) -> Iterator[Batch]:
        asked, scope = view.now, customer.customer_id
        recipes, invalid = self._recipes(scope)
        self._turns.refused.discard(scope)
        before = decode_marks(view.notes.get(note_of(scope), ""))
        crowded = len(before) > len(recipes) + MOST_FORMER
        marks = {key: mark for key, mark in before.items() if key in recipes} if crowded else before
        unread = decode_unread(view.notes.get(unread_note_of(scope), ""))
        listed = Listed(
            scope=scope,
            recipes=recipes,
            marks=dict(marks),
            unread={key: since for key, since in unread.items() if key in recipes},
            open_runs=open_runs,
            asked=asked,
        )
        todo = self._todo(view, listed)
        through = asked - self._settings.settle
        yield Batch(
            scope=scope,
            jobs=[to_job(recipe, customer, self._page_of(recipe)) for recipe in recipes.values()],
            catalog=True,
            listing=self._customers.listing,
            invalid=invalid,
            notes={} if marks is before and before else {note_of(scope): encode_marks(marks)},
            through=None if todo else through,
        )
        whole = yield from self._of_recipes(view, listed, todo)
        (self._turns.unfinished.discard if whole else self._turns.unfinished.add)(scope)
        notes = {} if listed.unread == unread else {unread_note_of(scope): encode_unread(listed.unread)}
        if notes or (whole and todo):
            yield Batch(scope=scope, through=through if whole else None, notes=notes)
        if not todo:
            self._turns.note_read(scope, view.now)

    def _of_recipes(self, view: View, listed: Listed, todo: Sequence[str]) -> Generator[Batch, None, bool]:
        """Read the jobs of these recipes; return whether all that is to be known of them is.

        A recipe that could not be read for longer than PATIENCE no longer counts for that. It is remembered up to
        where it was read, and caught up from there.
        """
        gaps, held, denied, answered = False, False, list[SourceError](), False
        for number, key in enumerate(todo):
            if number and view.out_of_time():
                return False
            error = yield from self._try_recipe(view, listed, key)
            answered = answered or error is None
            if error is None:
                gaps = gaps or unfinished(listed.marks.get(key))
                continue
            denied += [error] if isinstance(error, DENIALS) else []
            since = listed.unread.setdefault(key, self._unread_from(view, listed.scope)).since
            held = held or not view.now - since >= PATIENCE
        if denied and not answered and (len(denied) > 1 or not listed.marks):
            raise denied[0]  # it is the customer that may not be read
        if not gaps:
            self._turns.note_read(listed.scope, view.now)
        return not gaps and not held

    def _unread_from(self, view: View, scope: str) -> Unread:
        """What is to be remembered of a recipe that cannot be read from now on."""
        watermark = view.watermark(scope)
        return Unread(since=view.now, read=view.baseline(scope) if watermark is None else watermark)

    def _try_recipe(self, view: View, listed: Listed, key: str) -> Generator[Batch, None, SourceError | None]:
        """Read the jobs of a recipe; return why that failed, None if it did not."""
        part, began = f"recipe {job_id_of(listed.scope, key)}", view.now
        failure = self._failing.get(part)
        if failure is not None and self._failing.is_resting(part, began):
            self._note_resting(part)
            return failure.error
        self._looked[job_id_of(listed.scope, key)] = began
        try:
            yield self._of_recipe(view, listed, key) if key in listed.recipes else self._of_deleted(view, listed, key)
        except RateLimitedError:
            raise
        except SourceError as error:
            self._note_failed(part, error, began, view.now)
            if isinstance(error, NotFoundError) and failure is None:
                del self._parts[part]  # most likely deleted since it was listed: the next list tells
            return error
        self._failing.answered(part)
        return None

    def _recipes(self, scope: str) -> tuple[dict[str, Recipe], int]:
        """A customer's recipes by id, and how many rows were none."""
        recipes: dict[str, Recipe] = {}
        guard = PageGuard(f"GET {RECIPES}")
        invalid = 0
        for number in count(1):
            params: dict[str, str | int] = {"page": number, "per_page": PER_PAGE, "exclude_code": "true"}
            rows, bad = parse_recipes(self._api.get(scope, RECIPES, params))
            invalid += bad
            recipes |= {row.recipe_id: row for row in rows}
            if len(rows) + bad < PER_PAGE:
                break
            guard.check([row.recipe_id for row in rows])
        return recipes, invalid

    def _page_of(self, recipe: Recipe) -> str:
        return f"{self._settings.base_url}{path(RECIPES + '/{recipe}', recipe=recipe.recipe_id)}"

    def _todo(self, view: View, listed: Listed) -> list[str]:
        """Ids of recipes whose jobs are to be read: those first that were not for longest, last those that failed."""
        recipes, marks = listed.recipes, listed.marks
        tracked = dict.fromkeys(split_job_id(job_id)[1] for job_id in listed.open_runs)
        wanted = {key: None for key, recipe in recipes.items() if view.wanted(recipe.name or key)}
        moved = [key for key in wanted if key not in tracked and to_be_read(marks.get(key), recipes[key])]
        followed = [key for key in tracked if key in wanted or key not in recipes]
        return sorted(
            [*followed, *moved],
            key=lambda key: (key in listed.unread, self._looked.get(job_id_of(listed.scope, key), 0.0)),
        )

    # --- jobs ---

    def _search(self, view: View, listed: Listed, key: str) -> Search:
        job_id = job_id_of(listed.scope, key)
        return Search(self._api, view, job_id, view.baseline(listed.scope), listed.open_runs.get(job_id, ()))

    def _note_unread_jobs(self, search: Search) -> None:
        self._parts |= {f"job {run_id}": error for run_id, error in search.failed.items()}

    def _of_recipe(self, view: View, listed: Listed, key: str) -> Batch:
        """What is new of a recipe's jobs, with its new mark, which becomes one of `listed`."""
        scope, recipe, mark = listed.scope, listed.recipes[key], listed.marks.get(key)
        unread = listed.unread.get(key)
        watermark = view.watermark(scope) if unread is None else unread.read
        goal = self._goal(view, scope, recipe, mark, watermark)
        search = self._search(view, listed, key)
        gaps = search.read_pages(goal, mark.gaps if mark else ())
        search.read_open(oldest_of_interest=None if mark else view.now - self._settings.max_run_age)
        search.read_single(REACH)
        self._note_unread_jobs(search)
        runs = search.runs()
        recent = search.ended_since(listed.asked - self._settings.settle)
        if search.invalid:
            self._api.oddities.note([(NO_RUN, search.invalid)])
        found = Found(ended=len(search.found), recent=recent, gaps=gaps, beyond=search.beyond, invalid=search.invalid)
        listed.marks[key], missed = after(recipe, mark, goal, found)
        notes = {note_of(scope): encode_marks(listed.marks)}
        if listed.unread.pop(key, None) is not None:
            notes[unread_note_of(scope)] = encode_unread(listed.unread)
        lost = watermark is not None and missed and watermark < goal.floor
        return Batch(
            scope=scope,
            runs=runs,
            steps=search.steps,
            unchanged=search.unchanged,
            invalid=search.invalid,
            truncated=int(search.capped) + int(missed),
            unobserved=[Window(watermark, goal.floor)] if lost and watermark is not None else [],
            gone=search.gone,
            notes=notes,
        )

    def _goal(
        self, view: View, scope: str, recipe: Recipe, mark: ReadMark | None, watermark: float | None
    ) -> SearchTarget:
        """What is to be found. A recipe that is new to a known scope has no jobs from before its watermark."""
        settings = self._settings
        deep = is_deep(mark)
        floor = view.now - (FIRST_REACH if watermark is None else settings.lookback)
        if watermark is not None and (deep or mark is None):
            floor = max(floor, watermark - settings.overlap)
        baseline = view.baseline(scope) if mark is None or watermark is None else None
        return SearchTarget(owed=owed(mark, recipe), floor=floor, baseline=baseline, deep=deep)

    def _of_deleted(self, view: View, listed: Listed, recipe_id: str) -> Batch:
        """What became of the open jobs of a recipe that is no longer listed."""
        search = self._search(view, listed, recipe_id)
        search.read_single(REACH)
        self._note_unread_jobs(search)
        return Batch(scope=listed.scope, runs=search.runs(), steps=search.steps, gone=search.gone)

    # --- the rest ---

    def committed(self, batch: Batch) -> None:
        """All that must be remembered is in the notes."""

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """The lines of a job that has ended."""
        return parse_job(self._api.detail(run.job_id, run.run_id, patience=patience), run.run_id)[1]

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """The error text of a job, or of one of its steps."""
        return StepLog(stderr=parse_error(self._api.detail(run.job_id, run.run_id, patience=patience), step_name))

    def probe(self) -> str:
        """Signs in and asks for the first page of managed users, or for the recipes."""
        if self._settings.mode == "embedded":
            return f"signed in, {len(self._customers.ask()[0])} managed users on the first page"
        return f"signed in, {len(self._recipes('')[0])} recipes"

    def round_seconds(self) -> float:
        """How long it takes until every customer has been read once; 0 while each poll reads all."""
        return self._turns.round_seconds

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()


def _by_scope(runs: Sequence[OpenRun]) -> dict[str, dict[str, list[OpenRun]]]:
    """Open runs by scope and job, oldest first."""
    found: dict[str, dict[str, list[OpenRun]]] = {}
    for run in runs:
        found.setdefault(run.scope, {}).setdefault(run.job_id, []).append(run)
    return found


def note_of(scope: str) -> str:
    """The name of the note that holds the marks of a scope's recipes."""
    return f"marks/{scope}"


def unread_note_of(scope: str) -> str:
    """The name of the note that says which of a scope's recipes could not be read, and since when."""
    return f"unread/{scope}"


def _access(settings: WorkatoSettings) -> Access:
    root = settings.base_url.rstrip("/") + WorkatoSettings.api_path
    token = settings.auth.api_token
    return Access(root=root, auth=BearerAuth(token.reveal), credential=f"{root} {hash(token)}")


TYPE = SourceType(
    settings=WorkatoSettings,
    build=WorkatoSource,
    access=_access,
    identity=lambda settings: f"workato {settings.base_url} {settings.mode}",
    results=(Result.SUCCESS, Result.FAILURE, Result.UNKNOWN),
    attempts=True,
    has_steps=True,
    reopens=False,
    endpoints=(USERS, *(prefix + each for prefix in (CUSTOMER, "") for each in (RECIPES, JOBS, JOB))),
    reach=REACH,
)
