"""Workato: its settings, and how jobs are found by the counts of their recipes, page by page, and by id."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import model_validator

from exporter.client.budget import Pace
from exporter.client.client import Client
from exporter.client.signin import BearerAuth
from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.source import DAY, MINUTE, SourceSettings
from exporter.config.values import Positive, PositiveDuration, Switch
from exporter.errors import AuthError, ForbiddenError, NotFoundError, RateLimitedError, SourceError
from exporter.model import Listing, Reading, Result, Run, Step, Window
from exporter.sources.source import Access, SourceType, StepLog, View
from exporter.sources.workato_api import (
    CUSTOMER,
    JOB,
    JOBS,
    RECIPES,
    USERS,
    Customer,
    Recipe,
    job_id_of,
    parse_customers,
    parse_error,
    parse_job,
    parse_recipes,
    path,
    split_job_id,
    statuses,
    to_job,
)
from exporter.sources.workato_marks import (
    Found,
    Goal,
    Mark,
    after,
    decode_marks,
    encode_marks,
    is_deep,
    owed,
    to_be_read,
    unfinished,
)
from exporter.sources.workato_search import Api, Search

REACH = 30 * DAY
"""The least that workspaces keep jobs unless they are told to keep less."""
FIRST_REACH = DAY
"""How far back the first reading of a scope goes."""
PER_PAGE = 100
"""Managed users and recipes a page; jobs come about 25 a page whatever is asked."""
MOST_LISTED = 1000
"""Pages of one list, against an API that never ends."""
USERS_PER_MINUTE = 36
"""The API allows 60, shared with everything else that uses the workspace."""
LEAST_LISTING, LONGEST_LISTING = 10 * MINUTE, 30 * MINUTE
"""Bounds of the time between two readings of the list of managed users."""
SLOW = 10
"""Between them, so many poll intervals."""
STARVING = 10
"""Poll intervals after which a customer that was not read comes before all others."""
FAULTS = 3
"""Customers in a row that could not be asked, after which the rest waits for the next poll."""
MOST_FORMER = 1000
"""Recipes no longer listed of which a customer's marks are kept: one wrong list must not forget them."""
BUDGETS = {"embedded": 600.0, "developer": 36.0}
"""Requests per minute: about 60 % of 1000 (jobs; recipes 2000), and of 60 (jobs; recipes too), as others share them."""
REFUSALS = (AuthError, ForbiddenError, NotFoundError)


class Auth(Section):
    """Sign-in."""

    api_token: Secret
    """Token of an API client, whose role may list and view recipes and jobs."""


class WorkatoSettings(SourceSettings):
    """A Workato source: all customers of an Embedded partner, or one workspace."""

    api_path: ClassVar[str] = "/api"

    type: Literal["workato"]
    """The vendor."""
    mode: Literal["embedded", "developer"]
    """embedded: the recipes of all managed users; developer: those of the token's own workspace."""
    auth: Auth
    """How to sign in."""
    steps: Annotated[Literal["all", "failed", "off"], Switch] = "failed"
    """Of which ended runs the steps are fetched: one request a run."""
    timeout: PositiveDuration = 45.0
    """How long one request may take; Workato itself gives up after 40s."""
    requests_per_minute: Positive = BUDGETS["developer"]
    """Budget of requests, default 600 if embedded and 36 if developer. Sources with one token share the smallest."""

    @model_validator(mode="before")
    @classmethod
    def _budget_of_mode(cls, given: Any) -> Any:  # noqa: ANN401  # as the file has it
        """The limits differ by mode."""
        if isinstance(given, Mapping) and "requests_per_minute" not in given and given.get("mode") == "embedded":
            return {**given, "requests_per_minute": BUDGETS["embedded"]}
        return given

    def link(self, *, run_id: str, job_id: str = "", job_name: str = "", project: str = "") -> str:
        """As ever; `{job_id}` is the id of the recipe alone, as the vendor's own pages have it."""
        recipe = job_id.rpartition("/")[2]
        return super().link(run_id=run_id, job_id=recipe, job_name=job_name, project=project)


class Customers:
    """The list of managed users, read anew now and then; a workspace of one's own is one customer without a name.

    Args:
        settings: The source's configuration.
        client: Its API.

    Attributes:
        known: As last listed.
        fresh: Whether the last `refresh` read the list to its end.
        listing: The list that `known` is from; None for a workspace of one's own.
    """

    def __init__(self, settings: WorkatoSettings, client: Client) -> None:
        self._client = client
        self._interval = min(max(LEAST_LISTING, SLOW * settings.poll_interval), LONGEST_LISTING)
        self._pace = Pace(USERS_PER_MINUTE)
        self._partial: dict[str, Customer] = {}
        self._page = 1
        self._began = 0.0
        self._listed: float | None = None
        self._listable = settings.mode == "embedded"
        self.known: Sequence[Customer] = [] if self._listable else [Customer("", "")]
        self.fresh = False
        self.listing: Listing | None = None

    def refresh(self, now: float) -> SourceError | None:
        """Reads the list if it is due. Returns what kept it from being read, if an older one is at hand."""
        self.fresh = False
        recent = bool(self.known) and self._listed is not None and abs(now - self._listed) < self._interval
        if recent or not self._listable:
            return None
        try:
            self._read(now)
        except (AuthError, RateLimitedError):
            raise
        except SourceError as error:
            if self._listed is None:
                raise
            return error
        return None

    def _read(self, now: float) -> None:
        """Page by page; those for which the API's limit leaves no room are read by later polls."""
        while self._pace.earliest(now) <= now:
            self._pace.take(now)
            self._began = now if self._page == 1 else self._began
            rows = self.ask(self._page)
            before = len(self._partial)
            self._partial |= {row.customer_id: row for row in rows}
            if len(rows) < PER_PAGE or len(self._partial) == before:
                self.known, self._listed, self.fresh = list(self._partial.values()), now, True
                self.listing = Listing(self._began, frozenset(self._partial))
                self._partial, self._page = {}, 1
                return
            self._page += 1

    def ask(self, page: int = 1) -> list[Customer]:
        """One page of the list."""
        params = {"page": page, "per_page": PER_PAGE}
        return parse_customers(self._client.get(USERS, endpoint=USERS, params=params).body)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's recipes by id as they were listed at the instant `asked`; `marks` are renewed as jobs are read."""

    scope: str
    recipes: Mapping[str, Recipe]
    marks: dict[str, Mark]
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
        self._api = Api(client, statuses(settings.status_map))
        self._customers = Customers(settings, client)
        self._looked: dict[str, float] = {}
        self._read: dict[str, float] = {}
        self._refused: set[str] = set()
        self._unfinished: set[str] = set()
        self._round: set[str] = set()
        self._round_began: float | None = None
        self._round_seconds = 0.0

    # --- customers ---

    def readings(self, view: View) -> Iterator[Reading]:
        """Each customer's recipes and jobs, those with open or changed things first, for as long as time allows."""
        fault = self._customers.refresh(view.now)
        if self._customers.fresh:  # or one wrong list would be told again and again
            yield from self._of_vanished(view)
        began, faults, answered = view.now, 0, False
        if self._round_began is None:
            self._round_began = began
        for number, customer in enumerate(self._ordered(view)):
            if (number and view.out_of_time()) or faults >= FAULTS:
                break
            try:
                yield from self._of_customer(view, customer)
            except REFUSALS as error:
                yield self._refusal(customer, error, view.now, answered=answered)
                answered = True
            except RateLimitedError:
                raise
            except SourceError as error:
                fault, faults = error, faults + 1
                continue
            answered, faults = True, 0
        self._note_round(began, view.now)
        if fault is not None:
            raise fault

    def _refusal(self, customer: Customer, error: SourceError, now: float, *, answered: bool) -> Reading:
        """That a customer is not readable, unless it is the token itself that is refused."""
        if self._settings.mode == "developer":
            raise error
        if isinstance(error, AuthError) and not answered:
            self._customers.ask()  # raises if it is the token
        self._refused.add(customer.customer_id)
        self._note_read(customer.customer_id, now)
        return Reading(scope=customer.customer_id, readable=False, listing=self._customers.listing)

    def _ordered(self, view: View) -> list[Customer]:
        """Who has waited for too long, who has open or unread jobs, the others, those refused; longest wait first."""
        now, busy = view.now, {run.scope for run in view.open_runs()} | self._unfinished
        longest = STARVING * self._settings.poll_interval

        def rank(customer: Customer) -> tuple[int, float]:
            scope = customer.customer_id
            last = self._read.setdefault(scope, now)
            if scope in self._refused:
                return 3, last
            return (0 if now - last > longest else 1 if scope in busy else 2), last

        return sorted(self._customers.known, key=rank)

    def _note_read(self, scope: str, now: float) -> None:
        self._read[scope] = now
        self._round.add(scope)

    def _note_round(self, began: float, now: float) -> None:
        """A round is over when every customer has been read once."""
        start = began if self._round_began is None else self._round_began
        missing = {customer.customer_id for customer in self._customers.known} - self._round
        if not missing:
            self._round_seconds = 0.0 if start >= began else now - start
            self._round, self._round_began = set(), None
        else:
            self._round_seconds = max(self._round_seconds, now - start)

    def _of_vanished(self, view: View) -> Iterator[Reading]:
        """Customers that the list no longer shows; when one is forgotten as well, so are its recipes' marks."""
        known = {customer.customer_id for customer in self._customers.known}
        noted = {name.removeprefix(note_of("")) for name in view.notes}
        for scope in sorted((view.scopes | noted) - known):
            kept = scope in view.scopes
            yield Reading(scope=scope, exists=False, notes={} if kept else {note_of(scope): ""})

    # --- recipes ---

    def _of_customer(self, view: View, customer: Customer) -> Iterator[Reading]:
        asked, scope = view.now, customer.customer_id
        recipes, invalid = self._recipes(scope)
        self._refused.discard(scope)
        before = decode_marks(view.notes.get(note_of(scope), ""))
        crowded = len(before) > len(recipes) + MOST_FORMER
        marks = {key: mark for key, mark in before.items() if key in recipes} if crowded else before
        listed = Listed(scope=scope, recipes=recipes, marks=dict(marks), asked=asked)
        todo = self._todo(view, listed)
        through = asked - self._settings.settle
        yield Reading(
            scope=scope,
            jobs=[to_job(recipe, customer, self._page_of(recipe)) for recipe in recipes.values()],
            catalog=True,
            listing=self._customers.listing,
            invalid=invalid,
            notes={} if marks is before and before else {note_of(scope): encode_marks(marks)},
            through=None if todo else through,
        )
        whole = yield from self._of_recipes(view, listed, todo)
        (self._unfinished.discard if whole else self._unfinished.add)(scope)
        if whole:
            self._note_read(scope, view.now)
        if whole and todo:
            yield Reading(scope=scope, through=through)

    def _of_recipes(self, view: View, listed: Listed, todo: Sequence[str]) -> Generator[Reading, None, bool]:
        """Reads the jobs of these recipes; returns whether all that is to be known of them is."""
        whole = True
        for number, key in enumerate(todo):
            if number and view.out_of_time():
                return False
            self._looked[job_id_of(listed.scope, key)] = view.now
            if key not in listed.recipes:
                yield self._of_deleted(view, listed.scope, key)
                continue
            try:
                yield self._of_recipe(view, listed, key)
            except NotFoundError:  # deleted since it was listed: the next list will tell
                whole = False
            whole = whole and not unfinished(listed.marks.get(key))
        return whole

    def _recipes(self, scope: str) -> tuple[dict[str, Recipe], int]:
        """A customer's recipes by id, and how many rows were none."""
        recipes: dict[str, Recipe] = {}
        invalid = 0
        for number in range(1, MOST_LISTED + 1):
            params: dict[str, str | int] = {"page": number, "per_page": PER_PAGE, "exclude_code": "true"}
            rows, bad = parse_recipes(self._api.get(scope, RECIPES, params))
            invalid += bad
            before = len(recipes)
            recipes |= {row.recipe_id: row for row in rows}
            if len(rows) + bad < PER_PAGE or len(recipes) == before:
                break
        return recipes, invalid

    def _page_of(self, recipe: Recipe) -> str:
        return f"{self._settings.base_url}{path(RECIPES + '/{recipe}', recipe=recipe.recipe_id)}"

    def _todo(self, view: View, listed: Listed) -> list[str]:
        """Ids of recipes whose jobs are to be read, those first that were not for longest."""
        recipes, marks = listed.recipes, listed.marks
        tracked = dict.fromkeys(split_job_id(run.job_id)[1] for run in view.open_runs(listed.scope))
        wanted = [key for key, recipe in recipes.items() if view.wanted(recipe.name or key)]
        moved = [key for key in wanted if key not in tracked and to_be_read(marks.get(key), recipes[key])]
        followed = [key for key in tracked if key in wanted or key not in recipes]
        return sorted([*followed, *moved], key=lambda key: self._looked.get(job_id_of(listed.scope, key), 0.0))

    # --- jobs ---

    def _of_recipe(self, view: View, listed: Listed, key: str) -> Reading:
        """What is new of a recipe's jobs, with its new mark, which becomes one of `listed`."""
        scope, recipe, mark = listed.scope, listed.recipes[key], listed.marks.get(key)
        goal = self._goal(view, scope, recipe, mark)
        search = Search(self._api, view, job_id_of(scope, key), view.baseline(scope))
        gaps = search.read_pages(goal, mark.gaps if mark else ())
        search.read_open(oldest_of_interest=None if mark else view.now - self._settings.max_run_age)
        search.read_single(REACH)
        runs = search.runs()
        recent = search.ended_since(listed.asked - self._settings.settle)
        found = Found(ended=len(search.found), recent=recent, gaps=gaps, beyond=search.beyond, invalid=search.invalid)
        listed.marks[key], missed = after(recipe, mark, goal, found)
        watermark = view.watermark(scope)
        lost = watermark is not None and missed and watermark < goal.floor
        return Reading(
            scope=scope,
            runs=runs,
            steps=search.steps,
            unchanged=search.unchanged,
            invalid=search.invalid,
            truncated=int(search.capped) + int(missed),
            unobserved=[Window(watermark, goal.floor)] if lost and watermark is not None else [],
            gone=search.gone,
            notes={note_of(scope): encode_marks(listed.marks)},
        )

    def _goal(self, view: View, scope: str, recipe: Recipe, mark: Mark | None) -> Goal:
        """What is to be found. A recipe that is new to a known scope has no jobs from before its watermark."""
        settings, watermark = self._settings, view.watermark(scope)
        deep = is_deep(mark)
        floor = view.now - (FIRST_REACH if watermark is None else settings.lookback)
        if watermark is not None and (deep or mark is None):
            floor = max(floor, watermark - settings.overlap)
        baseline = view.baseline(scope) if mark is None or watermark is None else None
        return Goal(owed=owed(mark, recipe), floor=floor, baseline=baseline, deep=deep)

    def _of_deleted(self, view: View, scope: str, recipe_id: str) -> Reading:
        """What became of the open jobs of a recipe that is no longer listed."""
        search = Search(self._api, view, job_id_of(scope, recipe_id), view.baseline(scope))
        search.read_single(REACH)
        return Reading(scope=scope, runs=search.runs(), steps=search.steps, gone=search.gone)

    # --- the rest ---

    def committed(self, reading: Reading) -> None:
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
            return f"signed in, {len(self._customers.ask())} managed users on the first page"
        return f"signed in, {len(self._recipes('')[0])} recipes"

    def round_seconds(self) -> float:
        """How long it takes until every customer has been read once; 0 while each poll reads all."""
        return self._round_seconds

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()


def note_of(scope: str) -> str:
    """The name of the note that holds the marks of a scope's recipes."""
    return f"marks/{scope}"


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
